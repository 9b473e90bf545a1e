import pytest

from stages import report


def pair(low: float, high: float) -> dict:
    return {"difference": (low + high) / 2, "low": low, "high": high}


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.02, 0.05, "GRPO did more than elicit"),
        (-0.01, 0.02, "that it added skill is not shown"),
        (-0.05, -0.02, "GRPO is worse than"),
    ],
)
def test_what_grpo_changed_is_said_by_the_interval_against_the_control(low, high, says):
    assert says in report.against_control(pair(low, high))


def test_flips_are_counted_on_the_same_questions_only():
    def rows(**correct):
        return [{"question": q, "correct": c} for q, c in correct.items()]

    samples = {"sft": rows(a=True, b=False, c=False, d=True), "grpo": rows(a=False, b=True, c=True)}
    found = report.compared(samples, "sft", "grpo")
    assert (found["n"], found["gained"], found["lost"]) == (3, 2, 1)
    assert found["difference"] == pytest.approx(1 / 3)


def test_text_from_outside_cannot_break_the_page():
    page = report.html_table([["model"], ["<script>alert(1)</script>"]])
    assert "<script>" not in page and "&lt;script&gt;" in page
