"""Kept batches: what is read back is what was generated, and nothing else."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.batches import Batches, seed_at

ids = st.lists(st.lists(st.integers(0, 2**17), max_size=3), max_size=3)


def never():
    raise AssertionError("generated again")


def fill(path: Path, made: list) -> None:
    batches = Batches(path)
    for place, (prompts, completions) in enumerate(made):
        assert batches.get(place, prompts, lambda c=completions: c) == completions


@given(st.lists(st.tuples(ids, ids), min_size=1, max_size=4), st.data())
def test_whatever_is_cut_off_or_damaged_the_batches_before_it_are_read_back(made, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "batches.jsonl"
        fill(path, made)
        whole = path.read_bytes()
        at = data.draw(st.integers(0, len(whole) - 1))
        damaged = data.draw(st.sampled_from([whole[:at], whole[:at] + b"#" + whole[at + 1 :]]))
        path.write_bytes(damaged)
        before = whole[:at].count(b"\n")
        again = Batches(path)
        for place, (prompts, completions) in enumerate(made[:before]):
            assert again.get(place, prompts, never) == completions
        fill(path, made)
        assert path.read_bytes() == whole


def test_other_prompts_or_another_place_are_generated_anew(tmp_path):
    path = tmp_path / "batches.jsonl"
    fill(path, [([[1]], [[2]])])
    again = Batches(path)
    assert again.get(0, [[1]], never) == [[2]]
    assert again.get(0, [[7]], lambda: [[8]]) == [[8]]
    assert again.get(1, [[1]], lambda: [[9]]) == [[9]]
    with pytest.raises(AssertionError):
        Batches().get(0, [[1]], never)


def test_each_place_has_a_seed_of_its_own_under_every_seed():
    seeds = {seed_at(seed, place) for seed in range(30) for place in range(0, 3000, 100)}
    assert len(seeds) == 900 and all(0 <= seed < 2**63 for seed in seeds)
