"""A project whose stages have run without a stop, and the counts that the test run ends with."""

import pytest
import yaml

from tests.conftest import ROOT, TINY, Project, merged
from tests.faults.harness import CHANGES, Reference, Tally, reference


@pytest.fixture(scope="session")
def done(tmp_path_factory) -> Reference:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    params = merged(merged(raw, TINY), CHANGES)
    return reference(Project(tmp_path_factory.mktemp("faults") / "p", params))


@pytest.fixture
def count(request):
    """Keeps a tally for the summary, also where the tests run in several processes."""

    def keep(name: str, tally: Tally) -> None:
        request.node.user_properties.append(("tally", f"{name}: {tally}"))

    return keep
