import json
from pathlib import Path

import pytest

from stages import prepare
from stages.core import params
from stages.core.errors import UserError
from stages.tasks.problem import Problem
from tests.conftest import merged


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in Path(f"data/{name}.jsonl").open()]


def test_the_embedded_default(here, tiny):
    report = prepare.body(params.validate(tiny, "params.yaml"), run=None)
    sft, grpo, test = rows("sft"), rows("grpo"), rows("test")
    assert (len(sft), len(grpo), len(test)) == (64, 32, 12)
    assert report["test_chains_seen_in_training"] == 0
    assert all("completion" not in row for row in grpo + test)
    assert len({row["question"] for row in sft + grpo + test}) == 64 + 32 + 12


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


def test_duplicates_and_leaks_are_dropped_and_counted():
    problems = [Problem("How many?", "1"), Problem("how  MANY", "1"), Problem("In test!", "1"),
                Problem("Fine?", "2")]  # fmt: skip
    kept, dropped = prepare.clean(problems, seen={prepare.key("in test")})
    assert [p.question for p in kept] == ["How many?", "Fine?"]
    assert dropped == {"duplicate": 1, "also in test": 1, "gold unusable": 0}


def test_more_than_there_is_cannot_be_had(here, tiny):
    Path("rows.jsonl").write_text(
        "\n".join(json.dumps({"question": f"{n}?", "answer": "#### 1"}) for n in range(20))
    )
    changed = {"task": {"name": "gsm8k", "source": "rows.jsonl", "watch": "rows.jsonl"}}
    with pytest.raises(UserError, match="ask for 96 problems, 16 are there"):
        prepare.body(params.validate(merged(tiny, changed), "params.yaml"), run=None)
    assert not Path("data/sft.jsonl").exists()
