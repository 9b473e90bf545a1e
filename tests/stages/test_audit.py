"""audit: golds that earn everything, probes that must not, and the gate."""

import json
import os
import tracemalloc
from pathlib import Path

import pytest

from stages import audit, rewards
from stages.answers.format import Format
from stages.core import params as parameters
from stages.core.errors import UserError
from stages.core.files import write_rows
from stages.core.params import Reward
from stages.core.stage import Run
from stages.core.tracking import Spool

FMT = Format()
ROWS = [
    {"prompt": [], "question": f"How many is {gold}?", "gold": gold, "working": None}
    for gold in ("7", "1,080", "12 cm", "-3")
]


def faults(rows=ROWS, **specs):
    functions, weights = rewards.load({n: Reward(**s) for n, s in specs.items()}, FMT)
    verdicts = {name: audit.judge(functions, rows, [make(row, FMT) for row in rows])
                for name, make in audit.PROBES.items()}  # fmt: skip
    return audit.faults(verdicts, weights, rows)


def test_correctness_pays_every_gold_and_no_probe():
    found = faults(correctness={}, format={"weight": 0.1})
    assert found["full_score"] == 1.1
    assert (found["false_negatives"], found["false_positives"]) == (0, 0)
    assert found["probes"] == 7 * 4 + 2 * 3 + 1, (
        "numbers around three golds and a sum of each, another unit for one"
    )


def test_a_sum_is_probed_only_where_a_number_is_asked_for():
    assert "<answer>6+1</answer>" in audit.unevaluated(ROWS[0], FMT)
    assert audit.unevaluated({**ROWS[0], "numbers": [6, 1]}, FMT) is None
    assert audit.unevaluated({**ROWS[0], "gold": "A"}, FMT) is None


def test_a_reward_for_the_format_alone_pays_wrong_answers():
    found = faults(format={})
    assert found["false_negatives"] == 0
    assert {row["probe"] for row in found["false_positive_rows"]} >= {"gold only in the thinking"}


def test_a_reward_that_cannot_read_a_gold_is_found_with_its_row():
    found = faults(check_numbers_extraction={}, correctness={})
    assert [row["gold"] for row in found["false_negative_rows"]] == ["1,080", "12 cm", "-3"]
    assert [row["row"] for row in found["false_negative_rows"]] == [2, 3, 4]


def test_above_the_threshold_training_does_not_start(raw):
    found = {"false_negative_rate": 0.5, "false_positive_rate": 0.0}
    with pytest.raises(UserError, match=r"false negative rate is 50\.00%.*does not start"):
        audit.refuse_above(found, parameters.validate(raw, "params.yaml"))
    raw["audit"]["max_false_negative_rate"] = 0.5
    audit.refuse_above(found, parameters.validate(raw, "params.yaml"))


def test_every_gold_of_gsm8k_passes(real_data):
    rows = []
    for line in (real_data / "gsm8k" / "test.jsonl").open():
        row = json.loads(line)
        working, _, gold = row["answer"].rpartition("####")
        rows.append({"prompt": [], "question": row["question"], "gold": gold.strip(),
                     "working": working.strip()})  # fmt: skip
    found = faults(rows, correctness={}, format={"weight": 0.1})
    assert (found["false_negatives"], found["false_positives"]) == (0, 0)


def test_memory_grows_far_less_than_the_rows_do(here, raw, monkeypatch):
    monkeypatch.setattr(audit, "CHUNK", 50)
    given = parameters.validate(raw, "params.yaml")
    run = Run("audit", given, Spool(Path(os.devnull)))

    def grown(count: int) -> tuple[int, int]:
        """Peak memory of the stage, and the bytes that it reads."""
        write_rows(audit.ROWS, (
            {"prompt": [], "question": "How many?", "gold": "7", "working": f"{n} " * 2000}
            for n in range(count)
        ))  # fmt: skip
        tracemalloc.start()
        audit.body(given, run)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, audit.ROWS.stat().st_size

    grown(200)  # what is loaded once
    small, large = grown(200), grown(600)
    assert large[0] - small[0] < (large[1] - small[1]) / 10
