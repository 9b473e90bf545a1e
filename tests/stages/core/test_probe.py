"""What the preflight's measurements are made of; the real stage: test_preflight.py."""

import pytest

from stages.core.probe import Batch, warmed_up


@pytest.mark.parametrize(
    ("sizes", "counted"),
    [
        ([32], [32]),
        ([16, 16], [16]),
        ([8, 8, 8, 8], [8, 8, 8]),
        ([31, 1], [31, 1]),
        ([20, 12], [20, 12]),
        ([10, 10, 10, 2], [10, 10, 2]),
    ],
)
def test_the_first_batch_is_left_out_where_as_much_follows(sizes, counted):
    batches = [Batch([[]] * size, sampling=1.0, judging=0.1, width=9) for size in sizes]
    assert [len(batch.groups) for batch in warmed_up(batches)] == counted
