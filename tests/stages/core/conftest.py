"""What the tracker's tests share."""

from collections.abc import Callable

import pytest

from stages.core import params as parameters
from tests.conftest import ROOT


@pytest.fixture
def params(here, raw, monkeypatch) -> Callable[[str | None], parameters.Params]:
    """The default's parameters, tracked by the store of a URI; in an empty working folder."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("DVC_STAGE", raising=False)

    def to(uri: str | None) -> parameters.Params:
        raw["tracking"]["uri"] = uri
        return parameters.validate(raw, "params.yaml")

    return to
