import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.core.errors import UserError
from stages.core.files import (
    count_rows,
    in_parts,
    indexed_rows,
    kept_rows,
    read_rows,
    replacing,
    write_csv,
    write_json,
    write_rows,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_beside(here):
    write_json(Path("a.json"), {"x": 1})
    with pytest.raises(RuntimeError), replacing(Path("a.json")) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert Path("a.json").read_text() == '{\n  "x": 1\n}\n'
    assert [p.name for p in here.iterdir()] == ["a.json"]


def test_a_folder_is_replaced_whole(here):
    for content in ("old", "new"):
        with replacing(Path("out/model")) as beside:
            beside.mkdir()
            (beside / content).write_text(content)
    assert [p.name for p in Path("out/model").iterdir()] == ["new"]
    assert [p.name for p in Path("out").iterdir()] == ["model"]


def test_rows_come_back(here):
    rows = [{"a": 1}, {"b": "ü\n"}]
    write_rows(Path("rows.jsonl"), rows)
    assert list(read_rows(Path("rows.jsonl"))) == rows


def test_rows_on_disk_are_a_sequence(here):
    rows = [{"a": n, "b": "ü\n\ud800" * n} for n in range(9)]
    kept = kept_rows(iter(rows))
    assert list(kept) == rows and kept[-1] == rows[-1] and len(kept) == 9
    assert list(kept[2:5]) == rows[2:5] and not kept[:0]
    assert list(kept.take([7, 0, 7])) == [rows[7], rows[0], rows[7]]
    assert [(one, other) for one in kept for other in kept[3:5]] == [
        (one, other) for one in rows for other in rows[3:5]
    ], "two readers do not disturb each other"
    one = kept[1:2]
    kept.extend([{"a": 9}])
    assert list(kept) == [*rows, {"a": 9}] and list(one) == rows[1:2]
    assert not list((here / ".cache/rows").iterdir())


def test_a_file_of_rows_is_a_sequence(here):
    path, rows = Path("rows.jsonl"), [{"a": n, "b": "ü"} for n in range(5)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\ufeff" + "\n\n".join(lines), encoding="utf-8")
    found = indexed_rows(path)
    assert list(found) == list(read_rows(path)) == rows and found[3] == rows[3]
    assert [len(part) for part in in_parts(found, 2)] == [2, 2, 1]
    assert count_rows(path) == 5
    write_rows(path, [])
    assert not indexed_rows(path) and not count_rows(path)
    path.write_text("[1]\n")
    with pytest.raises(UserError, match="line 1: a JSON object was expected"):
        indexed_rows(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [('{"a": 1}\n{"a": \n', "line 2: not JSON"), ("[1]\n", "line 1: a JSON object was expected")],
)
def test_a_malformed_line_is_named(here, text, says):
    Path("rows.jsonl").write_text(text)
    with pytest.raises(UserError, match=says):
        list(read_rows(Path("rows.jsonl")))


def test_a_missing_file_is_named(here):
    with pytest.raises(UserError, match=r"nowhere\.jsonl is missing"):
        list(read_rows(Path("nowhere.jsonl")))


def test_csv_has_every_column(here):
    write_csv(Path("t.csv"), [{"step": 1, "loss": 2}, {"step": 2, "kl": 3}])
    assert Path("t.csv").read_text().split() == ["step,loss,kl", "1,2,", "2,,3"]


def test_what_a_killed_process_left_half_written_is_removed(here):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        Path(f".model.{pid}.new").mkdir()
        Path(f".model.{pid}.new/stale").write_text("half")
    Path(f".model.{os.getppid()}.new").write_text("another process writes this")
    with replacing(Path("model")) as beside:
        beside.mkdir()
        (beside / "whole").write_text("new")
    assert [p.name for p in Path("model").iterdir()] == ["whole"]
    assert {p.name for p in here.iterdir()} == {"model", f".model.{os.getppid()}.new"}
