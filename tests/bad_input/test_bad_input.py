"""Every mistake of the tables is made, and what is said of it is what the tables have."""

import importlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bad_input import cases, worlds
from tests.bad_input.cases import Case
from tests.conftest import ROOT

CASES = cases.all_cases()


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    worlds.good(folder)
    return folder


@pytest.fixture
def project(good, tmp_path, monkeypatch) -> Iterator[Path]:
    folder = tmp_path / "project"
    shutil.copytree(good, folder)
    if (schema := ROOT / ".cache" / "schema").exists():
        shutil.copytree(schema, folder / ".cache" / "schema")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    sys.modules.pop("my_rewards", None)
    importlib.invalidate_caches()
    with left_as_it_was():
        yield folder


@contextmanager
def left_as_it_was() -> Iterator[None]:
    """What a command sets for its whole process: its log and its environment."""
    own = logging.getLogger("stages")
    handlers, root, level = list(own.handlers), list(logging.root.handlers), own.level
    environ, hook = dict(os.environ), sys.excepthook
    yield
    own.handlers, logging.root.handlers, sys.excepthook = handlers, root, hook
    own.setLevel(level)
    logging.captureWarnings(False)
    os.environ.clear()
    os.environ.update(environ)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.table}: {case.wrong}")
def test_it_is_refused_in_one_sentence_and_nothing_is_written(case: Case, project, capfd):
    cases.prepare(case, project)
    before = cases.made(project)
    said = cases.said(case, project)
    assert as_in_table(said, case.says), said
    assert "\n" not in said and str(project) not in said
    left = case.given.get("leaves")  # whole, and named in the message or the documents
    if gone := case.given.get("removes"):  # an earlier output, as DVC does
        before = {k: v for k, v in before.items() if not k.startswith(f"{gone}/")}
    assert {k: v for k, v in cases.made(project).items() if k != left} == before


def as_in_table(said: str, says: str) -> bool:
    """`…` in a table stands for what a library adds, and for versions."""
    return re.fullmatch(re.escape(says).replace("…", ".*"), said) is not None


def test_there_are_enough_of_them_and_no_two_alike():
    names = [(case.table, case.wrong) for case in CASES]
    assert len(names) == len(set(names)) >= 70
    assert sum(case.table in ("params", "data") for case in CASES) >= 60


def test_every_stage_and_command_fails_as_a_process_of_its_own():
    real = {case.command[0] for case in CASES if case.given.get("real")}
    commands = {"solve", "why", "plan", "rewards", "export", "serve"}
    assert real >= {f"stages.{name}" for name in {*cases.STAGES, *commands}}


def test_the_document_is_what_the_tables_say():
    assert (ROOT / "docs/errors.md").read_text() == cases.document(), "python -m tests.bad_input"
