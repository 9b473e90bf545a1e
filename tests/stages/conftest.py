"""Fixtures that the stages' tests share."""

from pathlib import Path

import pytest

from tests import known


@pytest.fixture(scope="session")
def known_folder(tmp_path_factory) -> Path:
    return known.project(tmp_path_factory.mktemp("knowing"))


@pytest.fixture
def knowing(known_folder, monkeypatch) -> Path:
    """A working folder with params.yaml, and as models/grpo a model that knows `known.KNOWN`."""
    monkeypatch.chdir(known_folder)
    return known_folder
