"""Constraints on sampling that the stages share."""

from collections.abc import Callable

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


def in_halves(
    generate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    context: torch.Tensor,
    mask: torch.Tensor,
    pad: int,
) -> torch.Tensor:
    """What `generate` gives for a batch; where memory does not suffice, for its halves, joined.

    Args:
        generate: (batch, length), its mask -> (batch, length + new tokens).
        context: token ids, (batch, length), left-padded.
        mask: attention mask of the same shape.
        pad: the id that fills the shorter half's rows.

    Raises:
        torch.OutOfMemoryError: not even a batch of one fits.
    """
    try:
        return generate(context, mask)
    except torch.OutOfMemoryError:
        if len(context) == 1:
            raise
    torch.cuda.empty_cache()
    middle = len(context) // 2
    halves = [
        in_halves(generate, context[part], mask[part], pad)
        for part in (slice(None, middle), slice(middle, None))
    ]
    width = max(half.shape[1] for half in halves)
    padded = [torch.nn.functional.pad(h, (0, width - h.shape[1]), value=pad) for h in halves]
    return torch.cat(padded)
