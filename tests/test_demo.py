"""What `make demo` left in this checkout: the numbers that the README promises."""

import json

import pytest

from tests.conftest import ROOT

SUMMARY = ROOT / "reports" / "summary.json"


@pytest.mark.long
@pytest.mark.skipif(not SUMMARY.exists(), reason="no reports/summary.json: `make demo` makes it")
def test_the_embedded_default_learns():
    models = json.loads(SUMMARY.read_text())["models"]
    scores = {name: model["tasks"]["arithmetic"] for name, model in models.items()}
    assert all(score["n"] >= 500 for score in scores.values())
    assert 0.4 < scores["sft"]["accuracy"] < 0.65
    assert scores["grpo"]["accuracy"] >= 0.85
    assert scores["grpo"]["low"] > scores["sft"]["high"] + 0.1
    assert scores["grpo"]["format_compliance_rate"] >= 0.95
    assert scores["student"]["accuracy"] >= 0.95 * scores["grpo"]["accuracy"]
    assert models["student"]["parameters"] <= 0.45 * models["grpo"]["parameters"]
