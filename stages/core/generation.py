"""Constraints on sampling that the stages share."""

import torch
from transformers import LogitsProcessor


class BarredOpening(LogitsProcessor):
    """Bars a completion from opening with a given token sequence.

    Only the last token of the sequence is barred, and only while all tokens before it were just
    generated: a tokenizer that spells `<answer>` as several tokens can still begin `<think>`.

    Args:
        prompt_length: tokens before the completion begins (left-padded batch).
        opening: the barred sequence of token ids.
    """

    def __init__(self, prompt_length: int, opening: list[int]):
        self.prompt_length = prompt_length
        self.opening = opening

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """input_ids (batch, length), scores (batch, vocabulary) -> scores."""
        generated = input_ids[:, self.prompt_length :]
        if generated.shape[1] != len(self.opening) - 1:
            return scores
        prefix = torch.tensor(self.opening[:-1], device=generated.device, dtype=generated.dtype)
        about_to = (generated == prefix).all(dim=1)
        scores = scores.clone()
        scores[about_to, self.opening[-1]] = -torch.inf
        return scores
