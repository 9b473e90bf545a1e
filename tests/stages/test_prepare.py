import json
import tracemalloc
from pathlib import Path

import pytest

from stages import prepare
from stages.core import params
from stages.core.errors import UserError
from stages.core.files import read_rows, write_rows
from stages.core.grade import grades
from stages.core.overlap import Index
from stages.tasks.problem import Problem
from tests.conftest import merged

TESTS = {"asserts": ["assert f() == 1"]}


def rows(name: str) -> list[dict]:
    return list(read_rows(Path(f"data/{name}.jsonl")))


def test_the_embedded_default(here, tiny):
    report = prepare.body(params.validate(tiny, "params.yaml"), run=None)
    sft, grpo, test = rows("sft"), rows("grpo"), rows("test")
    assert (len(sft), len(grpo), len(test)) == (64, 32, 12)
    assert report["test_chains_seen_in_training"] == 0
    assert all("completion" not in row for row in grpo + test)
    assert len({row["question"] for row in sft + grpo + test}) == 64 + 32 + 12


def test_demonstrations_that_are_attempts_say_whether_they_are_right(here, tiny):
    prepare.body(params.validate(tiny, "params.yaml"), run=None)
    assert all("right" not in row and "numbers" not in row for row in rows("sft"))
    tiny["task"].update(name="countdown", answer_only={})
    prepare.body(params.validate(tiny, "params.yaml"), run=None)
    fmt = params.validate(tiny, "params.yaml").format.tags
    shown = rows("sft")
    verdicts = grades([row["completion"][0]["content"] for row in shown], shown, fmt)
    assert [verdict.correct for verdict in verdicts] == [row["right"] for row in shown]
    assert 0 < sum(row["right"] for row in shown) < len(shown)
    assert all("right" not in row and row["numbers"] for row in rows("grpo") + rows("test"))


def test_the_share_of_answers_without_working(here, tiny):
    tiny["task"].update(demonstrations=600, answer_only={"1": 0.0, "2": 1.0, "3": 0.5})
    prepare.body(params.validate(tiny, "params.yaml"), run=None)
    shown = {
        level: [r["completion"][0]["content"].startswith("<think>") for r in rows("sft")
                if r["level"] == level]
        for level in "123"
    }  # fmt: skip
    assert all(shown["1"]) and not any(shown["2"])
    assert 0.35 < sum(shown["3"]) / len(shown["3"]) < 0.65


def test_the_system_prompt_names_the_tags(here, tiny):
    tiny["format"]["system"] = "Think in {think_open}, answer in {answer_open}."
    prepare.body(params.validate(tiny, "params.yaml"), run=None)
    system, user = rows("test")[0]["prompt"]
    assert system == {"role": "system", "content": "Think in <think>, answer in <answer>."}
    assert user["role"] == "user"


def test_duplicates_and_leaks_are_dropped_and_counted(raw):
    raw["task"] = {"name": "rows", "source": "x.jsonl", "watch": "x.jsonl", "demonstrations": 1}
    loaded = params.validate(raw, "params.yaml")
    problems = [Problem("How many?", "1"), Problem("how  MANY", "1"), Problem("In test!", "1"),
                Problem("Fine?", "2")]  # fmt: skip
    problems += [Problem("Bad gold?", ""), Problem("A trace?", "4", claimed="5"),
                 Problem("Another?", "4", claimed="4.0"), Problem("Code?", "", tests=TESTS),
                 Problem("Wrong code?", "def f(): return 2", tests=TESTS)]  # fmt: skip
    index = Index([("test", 7, "in test")])
    found = []
    problems = list(prepare.decontaminated(problems, "rows", loaded.task, index, found))
    assert [(f["row"], f["found_in"], f["found_row"], f["by"]) for f in found] == [
        (3, "test", 7, "exact")
    ]
    dropped = {}
    kept = prepare.clean(problems, loaded.task, loaded, set(), dropped)
    assert [p.question for p in kept] == ["How many?", "Fine?", "Another?", "Code?"]
    assert dropped == {"duplicate": 1, "gold unusable": 2, "trace not right": 1}


def test_training_rows_that_an_evaluation_asks_are_dropped_and_reported(here, tiny, caplog):
    caplog.set_level("INFO")
    question = "A farmer has {} hens and each of them lays three eggs on every day of the week."
    made = [{"question": question.format(n) + f" How many in {n}?", "answer": "1"}
            for n in range(20)]  # fmt: skip
    copy = "Say, please: " + made[4]["question"].replace("farmer", "man") + " Thank you!"
    made.append({"question": copy, "answer": "1"})
    elsewhere = {"problem": made[0]["question"].upper()}
    Path("raw").mkdir()
    Path("raw/rows.jsonl").write_text("\n".join(map(json.dumps, made)))
    Path("raw/other.json").write_text(json.dumps([elsewhere]))
    tiny["task"] = {"name": "rows", "source": "raw/rows.jsonl", "watch": "raw",
                    "decontaminate": ["raw/other.json"],
                    "demonstrations": 8, "pool": 7}  # fmt: skip
    report = prepare.body(params.validate(tiny, "params.yaml"), run=None)
    assert report["contaminated"] == 2, "numbers tell the others apart"
    assert report["matched_exactly_only"] == 0 and "exact copies" not in caplog.text
    assert [(f["by"], f["found_in"], f["found_row"]) for f in rows("contamination")] == [
        ("exact", "raw/other.json", 1), ("n-gram", "rows test", 1)
    ]  # fmt: skip


def test_a_mixture_divides_by_weight_and_keeps_each_rows_own_judge(here, tiny, caplog):
    caplog.set_level("INFO")
    code = [{"problem": f"Return {n}.", "tests": [f"assert f() == {n}"],
             "solution": f"def f(): return {n}"} for n in range(20)]  # fmt: skip
    choice = [{"question": f"{n}?", "options": ["A)1", "B)2"], "answer": "b"} for n in range(40)]
    Path("raw").mkdir()
    for name, made in (("code", code), ("choice", choice)):
        Path(f"raw/{name}.jsonl").write_text("\n".join(map(json.dumps, made)))
    tiny["task"] = {
        "name": "mix", "watch": "raw", "demonstrations": 16, "pool": 12, "dev": 4, "test": 8,
        "of": {"sums": {"name": "arithmetic", "weight": 2},
               "code": {"name": "rows", "source": "raw/code.jsonl"},
               "choice": {"name": "rows", "source": "raw/choice.jsonl", "test": 3}},
    }  # fmt: skip
    report = prepare.body(params.validate(tiny, "params.yaml"), run=None)
    assert report["matched_exactly_only"] == 4
    assert "4 of 16 evaluation questions are too short" in caplog.text
    assert report["tasks"] == {
        "sums": {"demonstrations": 8, "pool": 6, "dev": 2, "test": 4},
        "code": {"demonstrations": 4, "pool": 3, "dev": 1, "test": 2},
        "choice": {"demonstrations": 4, "pool": 3, "dev": 1, "test": 3},
    }
    for name in ("sft", "grpo", "dev", "test"):
        made = rows(name)
        assert len({tuple(row) for row in made}) == 1, "the same columns in every row"
        for row in made:
            assert (row["options"] is not None) is (row["task"] == "choice")
            assert (row["tests"] is not None) is (row["task"] == "code")
            assert "percent" not in row and "aliases" not in row
    assert [row["task"] for row in rows("sft")] != sorted(row["task"] for row in rows("sft"))


def test_code_without_solutions_serves_for_grpo_only(here, tiny):
    made = [{"problem": f"Return {n}.", "tests": [f"assert f() == {n}"]} for n in range(20)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, made)))
    tiny["task"] = {"name": "rows", "source": "rows.jsonl", "watch": "rows.jsonl",
                    "demonstrations": 0, "pool": 10}  # fmt: skip
    tiny["sft"]["method"] = "none"
    prepare.body(params.validate(tiny, "params.yaml"), run=None)
    assert len(rows("sft")) == 0 and len(rows("grpo")) == 10


def test_more_than_there_is_cannot_be_had(here, tiny):
    Path("rows.jsonl").write_text(
        "\n".join(json.dumps({"question": f"{n}?", "answer": "#### 1"}) for n in range(20))
    )
    changed = {"task": {"name": "gsm8k", "source": "rows.jsonl", "watch": "rows.jsonl"}}
    with pytest.raises(UserError, match="ask for 96 problems, 16 are there"):
        prepare.body(params.validate(merged(tiny, changed), "params.yaml"), run=None)
    assert not Path("data/sft.jsonl").exists()


def test_prompts_over_the_limit_are_left_out_of_training_and_counted(here, tiny):
    from stages import base
    from stages.core import models

    base.body(params.validate(tiny, "params.yaml"), run=None)
    tokenizer = models.load_tokenizer("models/base")
    for split, count in (("train", 60), ("test", 20)):
        write_rows(here / f"own/{split}.jsonl", (
            {"question": f"{split}: " + "and " * i + "what?", "answer": "1"} for i in range(count)
        ))  # fmt: skip

    def report(limit: int | None) -> dict:
        tiny["task"] = {"name": "rows", "source": "own", "watch": "own", "demonstrations": 10,
                        "max_prompt_length": limit}  # fmt: skip
        return prepare.body(params.validate(tiny, "params.yaml"), run=None)

    def length(row: dict) -> int:
        ids = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)
        return len(ids["input_ids"])

    assert "rows train" not in report(None)["dropped"]
    lengths = sorted(map(length, rows("sft") + rows("grpo")))
    limit = lengths[29]
    assert report(limit)["dropped"] == {"rows train": {"prompt too long": 30}}
    assert max(map(length, rows("sft") + rows("grpo"))) == limit
    assert len(rows("test")) == 20
    with pytest.raises(UserError, match=rf"length 3: the shortest prompt .* has {lengths[0]} tok"):
        report(3)


def test_memory_grows_far_less_than_the_rows_do(here, tiny, monkeypatch):
    monkeypatch.setattr(prepare, "CHUNK", 50)

    def grown(count: int) -> tuple[int, int]:
        """Peak memory of the stage, and the bytes of its source."""
        source = here / "own/train.jsonl"
        for split, rows in (("train", count), ("test", 20)):
            write_rows(source.with_stem(split), (
                {"question": f"{split} {n}?", "answer": "1", "solution": f"{n} " * 2000}
                for n in range(rows)
            ))  # fmt: skip
        tiny["task"] = {"name": "rows", "source": "own", "watch": "own", "demonstrations": 50}
        given = params.validate(tiny, "params.yaml")
        tracemalloc.start()
        prepare.body(given, run=None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, source.stat().st_size

    grown(200)  # what is loaded once
    small, large = grown(200), grown(800)
    assert large[0] - small[0] < (large[1] - small[1]) / 10
