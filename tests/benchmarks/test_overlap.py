import random
import re
from itertools import islice

import pytest

from benchmarks import overlap


@pytest.mark.parametrize("kind", [overlap.prose, overlap.templated])
def test_rows_are_matched_against_items(kind, monkeypatch, capsys):
    monkeypatch.setattr(overlap, "ITEMS", 100)
    overlap.compare(kind, [200])
    index, rows = capsys.readouterr().out.splitlines()
    assert "index of 100 items" in index and re.search(r" 200 rows .* rows/s .* MB$", rows)


def test_the_hard_case_has_no_held_out_problem_in_its_rows():
    held = set(islice(overlap.templated(random.Random(0), []), 50))
    rows = list(islice(overlap.templated(random.Random(1), ["held"]), 20))
    assert not any(question in row for question in held for row in rows)
