from hypothesis import given
from hypothesis import strategies as st

from stages.reporting import scores

PLAIN = {"n": 4, "accuracy": 0.5, "low": 0.2, "high": 0.8, "format_compliance_rate": 0.75}
SAMPLED = {
    "pass@1": 0.5, "pass@1_low": 0.4, "pass@1_high": 0.6, "pass@1_stderr": 0.05,
    "pass@16": 0.9, "pass@16_low": 0.8, "pass@16_high": 1.0, "pass@8": 0.75, "maj@8": 0.6,
    "entropy": 0.125,
}  # fmt: skip


def row(level: str | None, correct: bool, **more) -> dict:
    return {"question": "?", "level": level, "correct": correct, **more}


def test_a_task_is_an_entry_with_an_accuracy():
    found = {
        "sft": {"parameters": 7, "tokens": 3, "seconds": 1.0, "more": {"x": 1}, "gsm8k": PLAIN},
        "grpo": {"parameters": 7, "gsm8k": PLAIN, "math": PLAIN},
    }
    assert scores.tasks_of(found) == ["gsm8k", "math"]
    listed = [(task, model) for task, model, _ in scores.entries(found, ["gsm8k", "math"])]
    assert listed == [("gsm8k", "sft"), ("gsm8k", "grpo"), ("math", "grpo")]


def test_one_task_needs_no_column_for_its_name():
    one = {"sft": {"parameters": 1234, "gsm8k": PLAIN}}
    assert scores.brief(one, ["gsm8k"]) == [
        ["model", "parameters", "accuracy", "95 % interval", "format", "what it is"],
        ["sft", "1,234", "0.500", "[0.200, 0.800]", "0.750",
         "after supervised training on demonstrations"],
    ]  # fmt: skip
    two = {"sft": {"parameters": 1234, "gsm8k": PLAIN, "math": PLAIN}}
    assert [r[:2] for r in scores.brief(two, ["gsm8k", "math"])] == [
        ["task", "model"], ["gsm8k", "sft"], ["math", "sft"],
    ]  # fmt: skip


def test_scores_that_an_evaluation_has_not_are_left_out():
    old = {"sft": {"parameters": 1, "t": PLAIN}}
    assert scores.full(old, ["t"])[0] == scores.brief(old, ["t"])[0][:-1]
    assert scores.sampled(old, ["t"]) is None
    new = {
        "sft": {"parameters": 1, "t": {**PLAIN, "mean_reward": 0.25}},
        "grpo": {"parameters": 1, "t": {**PLAIN, "mean_reward": None}},
    }
    assert [r[-1] for r in scores.full(new, ["t"])] == ["mean reward", "0.250", ""]


def test_pass_and_maj_stand_in_order_with_their_intervals():
    found = {"sft": {"parameters": 1, "t": {**PLAIN, **SAMPLED}}}
    assert scores.sampled(found, ["t"]) == [
        ["model", "pass@1", "pass@8", "pass@16", "maj@8", "entropy"],
        ["sft", "0.500 [0.400, 0.600]", "0.750", "0.900 [0.800, 1.000]", "0.600", "0.125"],
    ]


def test_lm_evals_own_tasks_stand_by_themselves():
    found = {
        "sft": {"lm_eval": {"gsm8k": {"exact_match.strict-match": 0.25}}},
        "grpo": {"lm_eval": {"gsm8k": {"exact_match.strict-match": 0.5, "alias": 0.125}}},
        "base": {},
    }
    assert scores.official(found) == [
        ["model", "gsm8k exact_match.strict-match", "gsm8k alias"],
        ["sft", "0.250", ""],
        ["grpo", "0.500", "0.125"],
    ]
    assert scores.official({"sft": {"t": PLAIN}}) is None and scores.tasks_of(found) == []


def test_levels_are_counted_in_their_natural_order():
    samples = {
        "sft": [row("10", True), row("9", False), row("9", True), row(None, True)],
        "grpo": [row("10", False), row("9", True), row("9", True), row(None, True)],
    }
    assert scores.by_level(samples) == [
        ["level", "problems", "sft", "grpo"],
        ["9", "2", "0.500", "1.000"],
        ["10", "1", "1.000", "0.000"],
    ]
    assert scores.by_level({"sft": [row(None, True)]}) is None


@given(st.lists(st.sampled_from([None, *scores.ERRORS, "new kind"]), min_size=1, max_size=50))
def test_kinds_of_error_are_shares_of_all_completions(kinds):
    table = scores.errors({"t": {"sft": [row(None, kind is None, error=kind) for kind in kinds]}})
    heading, cells = table
    assert heading[:3] == ["model", "completions", "no error"]
    shares = dict(zip(heading[2:], (float(cell.rstrip("%")) for cell in cells[2:]), strict=True))
    assert abs(sum(shares.values()) - 100) < 0.5
    for kind in scores.ERRORS:
        assert abs(shares[kind] - 100 * kinds.count(kind) / len(kinds)) < 0.06


def test_without_recorded_kinds_there_is_no_table_of_errors():
    assert scores.errors({"t": {"sft": [row(None, True)]}}) is None
    assert scores.errors({"t": {"sft": []}}) is None
