"""Batches that do not fit are halved, in order."""

import pytest
import torch

from stages.core.generation import in_halves


def counting(limit: int, calls: list[int]):
    def generate(context, mask):
        calls.append(len(context))
        if len(context) > limit:
            raise torch.OutOfMemoryError
        width = int(context.max())  # as long as its longest row
        return torch.nn.functional.pad(context, (0, width), value=7)

    return generate


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
def test_a_batch_that_does_not_fit_is_halved_in_order(limit):
    context = torch.arange(1, 6).reshape(5, 1)
    calls: list[int] = []
    out = in_halves(counting(limit, calls), context, torch.ones_like(context), pad=0)
    assert out[:, 0].tolist() == [1, 2, 3, 4, 5] and out.shape == (5, 6)
    assert sum(size for size in calls if size <= limit) == 5


def test_a_single_row_that_does_not_fit_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        in_halves(counting(0, []), torch.ones(3, 1, dtype=torch.long), torch.ones(3, 1), pad=0)
