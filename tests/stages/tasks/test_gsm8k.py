import json
from pathlib import Path

import pytest

from stages import tasks
from stages.answers.equality import equal
from stages.core import params
from stages.core.errors import UserError
from tests.conftest import merged

ROW = {"question": "How many?", "answer": "1+1=<<1+1=2>>2\n#### 2"}


def task(raw: dict, source: str) -> params.Task:
    changes = {"task": {"name": "gsm8k", "source": source, "watch": source}}
    return params.validate(merged(raw, changes), "params.yaml").task


def test_real_gsm8k_is_read_whole(raw, real_data):
    train, test = map(list, tasks.load(task(raw, str(real_data / "gsm8k")), seed=0))
    assert (len(train), len(test)) == (7473, 1319)
    assert all(equal(p.gold, p.gold) and "<<" not in p.working for p in train + test)


def test_a_single_file_is_split(raw, here):
    rows = [{**ROW, "question": f"How many {n}?"} for n in range(10)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train, test = map(list, tasks.load(task(raw, "rows.jsonl"), seed=0))
    assert (len(train), len(test)) == (8, 2)
    assert train[0].working == "1+1=2" and train[0].gold == "2"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "How many?"}, "row 1: no text in 'answer'"),
        ({"question": " ", "answer": "#### 2"}, "row 1: no text in 'question'"),
        ({"question": "How many?", "answer": "2"}, "row 1: no gold"),
        ({"question": "How many?", "answer": "2 #### "}, "row 1: no gold"),
    ],
)
def test_a_row_that_lacks_something_is_named(raw, here, row, says):
    Path("rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=says):
        list(tasks.load(task(raw, "rows.jsonl"), seed=0)[0])


def test_an_empty_file_is_refused(raw, here):
    Path("rows.jsonl").touch()
    with pytest.raises(UserError, match="has no rows"):
        list(tasks.load(task(raw, "rows.jsonl"), seed=0)[0])


def test_an_unreachable_hub_names_the_local_way(raw):
    with pytest.raises(UserError, match=r"openai/gsm8k cannot be had from the hub .* folder"):
        tasks.load(task(raw, "openai/gsm8k").model_copy(update={"watch": "x"}), seed=0)


def test_a_folder_that_is_not_there_is_named(raw):
    with pytest.raises(UserError, match=r"data/raw/none/train.jsonl is missing|none is missing"):
        list(tasks.load(task(raw, "data/raw/none"), seed=0)[0])
