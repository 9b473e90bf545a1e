"""A project whose stages have run without a stop, and the counts that the test run ends with."""

import pytest
import yaml

from tests.conftest import ROOT, TINY, Project, merged
from tests.faults.harness import CHANGES, Reference, Tally, reference

TALLIES = pytest.StashKey[dict[str, Tally]]()


@pytest.fixture(scope="session")
def done(tmp_path_factory) -> Reference:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    params = merged(merged(raw, TINY), CHANGES)
    return reference(Project(tmp_path_factory.mktemp("faults") / "p", params))


@pytest.fixture
def count(request):
    """Keeps a tally for the summary."""

    def keep(name: str, tally: Tally) -> None:
        request.config.stash.setdefault(TALLIES, {})[name] = tally

    return keep


def pytest_terminal_summary(terminalreporter, config):
    for name, tally in config.stash.get(TALLIES, {}).items():
        terminalreporter.write_line(f"{name}: {tally}")
