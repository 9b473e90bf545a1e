"""Batches without padding: rows share a sequence, and a mask keeps them apart.

The same rows make a step, and its loss is the same; only what is computed of padding goes. TRL's
`padding_free` lays a whole batch into one sequence, which needs FlashAttention's kernels. Here any
attention will do: each row's positions begin at 0, by which transformers knows to mask all others
(`masking_utils.find_packed_sequence_indices`). Whether a model heeds them is tried before a step.
"""

import math
import random
from collections.abc import Sequence
from typing import Any

import torch

from stages.core.errors import UserError

MULTIPLE = 32  # of it are widths: on a CPU a new shape is compiled, which takes as long as a step
TRIED = 20  # batches by which the width is chosen
LEAK = 1e-3  # of the largest logit: what rounding may make, and no row's reading of another one


class Together:
    """A collator: rows of (length,) to sequences of (count, width), each as full as they go.

    Args:
        width: tokens of a sequence, at least as many as the longest row has.
        pad: the id that fills what is left of a sequence.
    """

    def __init__(self, width: int, pad: int):
        self.width, self.pad = width, pad

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        lengths = [len(row["input_ids"]) for row in rows]
        sequences = best_fit(lengths, self.width)
        width = rounded(max(sum(lengths[i] for i in places) for places in sequences))
        shape = (len(sequences), width)
        ids, labels = torch.full(shape, self.pad), torch.full(shape, -100)
        positions = torch.zeros(shape, dtype=torch.long)
        for n, places in enumerate(sequences):
            at = 0
            for i in places:
                end = at + lengths[i]
                ids[n, at:end] = torch.tensor(rows[i]["input_ids"])
                labels[n, at:end] = torch.tensor(rows[i]["labels"])
                positions[n, at:end] = torch.arange(lengths[i])
                at = end
            positions[n, at:] = torch.arange(width - at)  # what is left is a row of its own
        return {"input_ids": ids, "labels": labels, "position_ids": positions,
                "tokens": torch.tensor([sum(lengths)])}  # fmt: skip


def rounded(length: float) -> int:
    return math.ceil(length / MULTIPLE) * MULTIPLE


def best_width(lengths: Sequence[int], batch: int, hidden: int) -> int:
    """The width at which batches of these rows cost least: that of the longest, to twice as much.

    Wider sequences are fuller, and attention costs each token more: by width / 4 hidden, as it was
    measured for 96 and 160 hidden units on a CPU.
    """
    chosen = random.Random(0)
    batches = [chosen.sample(lengths, min(batch, len(lengths))) for _ in range(TRIED)]
    widths = sorted({rounded(max(lengths) * factor) for factor in (1, 1.25, 1.5, 1.75, 2)})

    def cost(width: int) -> float:
        tokens = sum(len(best_fit(lengths, width)) * width for lengths in batches)
        return tokens * (1 + width / (4 * hidden))

    return min(widths, key=cost)


def best_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Places of rows, sequence by sequence: the longest first, each where least room is left.

    >>> best_fit([3, 8, 5, 2], width=8)
    [[1], [2, 0], [3]]
    """
    sequences: list[list[int]] = []
    rooms: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [n for n, room in enumerate(rooms) if room >= lengths[i]]
        if not fitting:
            fitting = [len(rooms)]
            sequences.append([])
            rooms.append(width)
        best = min(fitting, key=rooms.__getitem__)
        sequences[best].append(i)
        rooms[best] -= lengths[i]
    return sequences


def trainer() -> type:
    """TRL's trainer for such batches. Trl imports late."""
    from trl import SFTTrainer

    class PaddingFreeTrainer(SFTTrainer):
        """TRL's, which would count a sequence's tokens for the batch's."""

        tried = False

        def compute_loss(self, model: Any, inputs: dict[str, Any], *others: Any, **named: Any):
            tokens = self.accelerator.gather(inputs.pop("tokens")).sum().item()
            if not self.tried:
                require_apart(model, inputs["input_ids"])
                self.tried = True
            before = self._total_train_tokens
            loss = super().compute_loss(model, inputs, *others, **named)
            self._total_train_tokens = before + tokens
            self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
            return loss

    return PaddingFreeTrainer


@torch.no_grad()
def require_apart(model: torch.nn.Module, ids: torch.Tensor) -> None:
    """That a row's logits do not hang on the row before it in its sequence.

    Args:
        ids: any token ids, sixteen at least, of which two differ.

    Raises:
        UserError: they do: the model takes no notice of positions that begin anew.
    """
    some, (low, high) = ids.flatten()[:16].reshape(1, 16), ids.aminmax()
    half = torch.arange(8, device=ids.device)
    other = some.clone()
    other[:, :8] = torch.where(some[:, :8] == low, high, low)  # each of its tokens is another
    training = model.training
    model.eval()  # dropout would differ
    ours, theirs = (
        model(input_ids=row, position_ids=torch.cat([half, half])[None], use_cache=False)
        .logits[0, 8:].float()
        for row in (some, other)
    )  # fmt: skip
    model.train(training)
    if (ours - theirs).abs().max() > LEAK * ours.abs().max():
        raise UserError(
            "padding_free: in this model the rows of a sequence see each other, as it takes no "
            "notice of their positions: leave padding_free out"
        )
