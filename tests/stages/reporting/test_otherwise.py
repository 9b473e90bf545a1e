from stages.reporting import otherwise
from stages.reporting.otherwise import Taught

PLAIN = {"accuracy": 0.5, "low": 0.2, "high": 0.8}


def rows(task: str, right: int) -> list[dict]:
    return [{"task": task, "question": f"{i}", "correct": i < right} for i in range(40)]


def test_a_student_is_called_by_what_it_was_really_taught_from():
    verified = {"method": "verified", "kept": 7, "sampled": 90}
    assert otherwise.taught({**verified, "rows": 7, "fell_back": 0}) == Taught("verified", 7)
    fallen_back = otherwise.taught({**verified, "rows": 8000, "fell_back": 1})
    assert fallen_back == Taught("verified (too few: demonstrations)", 8000)
    assert otherwise.taught(verified) == Taught("verified", None), "metrics of an older version"


def test_the_others_are_held_against_the_main_student_on_each_task():
    samples = {task: {"student": rows(task, 30), "student-logits": rows(task, right)}
               for task, right in {"gsm8k": 10, "math": 40}.items()}  # fmt: skip
    against = otherwise.against_main(samples, ["student-logits", "student-unverified"])
    assert [(p.task, p.before, p.after, p.verdict) for p in against] == [
        ("gsm8k", "student", "student-logits", "worse"),
        ("math", "student", "student-logits", "better"),
    ]
    students = {"student": Taught("verified", 3838), "student-logits": Taught("logits", None)}
    worse, better = otherwise.verdicts(students, against)
    assert worse[0] == "worse" and better[0] == "better"
    said = "Taught by the method logits rather than verified, the same student is worse on "
    assert worse[1].startswith(said)

    found = {model: {"gsm8k": PLAIN, "math": PLAIN} for model in students}
    table = otherwise.table(found, ["gsm8k", "math"], students, against)
    assert [row[:3] for row in table] == [
        ["task", "taught by", "training rows"],
        ["gsm8k", "verified", "3,838"], ["gsm8k", "logits", ""],
        ["math", "verified", "3,838"], ["math", "logits", ""],
    ]  # fmt: skip
    assert table[1][-4:] == ["", "", "", ""] and [link.text for link in table[2][-3:-1]] == [
        "0",
        "20",
    ]
