import json

import pytest

from benchmarks import ratios, rewards


def test_what_is_recorded_is_what_is_measured():
    recorded = json.loads(ratios.RECORD.read_text())
    assert recorded.keys() == ratios.MEASURES.keys() and all(0 < r < 100 for r in recorded.values())


@pytest.mark.parametrize(
    ("ratio", "falls"), [(4.0, False), (2.1, False), (1.9, True), (9.0, False)]
)
def test_a_large_fall_is_told_and_no_other(ratio, falls):
    told = ratios.fallen({"a step": ratio}, {"a step": 4.0, "not to be had here": 2.0})
    assert told == ([f"a step: {ratio:.2f} times as fast, 4.00 when recorded"] if falls else [])


def test_processor_time_of_each_round_is_compared():
    assert ratios.of_processor([(9.0, 2.0), (9.0, 3.0)], [(1.0, 1.0), (1.0, 2.0)]) == [2.0, 1.5]


def test_pairs_of_the_verifier_are_its_own_in_each_round(monkeypatch):
    seen, measured = [], rewards.measured

    def noted(grader, pairs):
        seen.append(pairs)
        return measured(grader, pairs)

    monkeypatch.setattr(rewards, "measured", noted)
    assert len(list(ratios.verifications(2))) == 2
    first, second = seen[0], seen[2]
    assert first == seen[1] and second == seen[3], "both graders judge the same ones"
    assert len(first) > 100 and abs(len(first) - len(second)) <= 1 and first != second
