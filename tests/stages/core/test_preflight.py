"""The preflight: its figures and rules, and the real stage that refuses, warns or looks away."""

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stages import base, tasks
from stages.core import models, params, preflight
from stages.core.files import write_rows
from stages.core.preflight import Costs, Figures, Sample
from tests import known
from tests.conftest import ROOT, TINY, Project, merged

PARAMS = params.load(ROOT / "params.yaml")
WELL = Figures(prompts=32, completions=256, pass_rate=0.4, dead_groups=0.25, truncated=0.0,
               missing_eos=0.0, unjudged=0.0, completion_length=20.0)  # fmt: skip


def grpo(**changes) -> params.Grpo:
    return PARAMS.grpo.model_copy(update=changes)


def found(settings: dict | None = None, **changes) -> dict[str, str]:
    """Finding -> severity."""
    findings = preflight.examine(WELL._replace(**changes), grpo(**(settings or {})))
    return {finding.name: finding.severity for finding in findings}


# --- figures --------------------------------------------------------------------------------------

RIGHT = Sample(True, 1.0, ended=True, answered=True, tokens=10)
WRONG = Sample(False, 0.0, ended=True, answered=True, tokens=20)
CUT = Sample(False, 0.0, ended=False, answered=False, tokens=40)
RUNS_ON = Sample(True, 1.0, ended=False, answered=True, tokens=40)
UNJUDGED = Sample(None, None, ended=True, answered=True, tokens=10)


def test_figures_of_known_samples():
    groups = [[RIGHT, WRONG], [WRONG, CUT], [RIGHT, RUNS_ON], [UNJUDGED, RIGHT]]
    assert preflight.figures(groups) == Figures(
        prompts=4, completions=8, pass_rate=0.5, dead_groups=0.75, truncated=0.25,
        missing_eos=0.125, unjudged=0.125, completion_length=20.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rewards", "differ"),
    [([0.0, 1.0], True), ([1.0, 1.0], False), ([0.0, 1e-9], False), ([None, 1.0], False),
     ([None, 0.0, 1.0], True), ([float("nan"), 1.0], False), ([float("inf"), 1.0], False),
     ([], False)],
)  # fmt: skip
def test_what_differs_in_reward_is_what_trl_has_an_advantage_for(rewards, differ):
    assert preflight.differs([RIGHT._replace(reward=r) for r in rewards]) is differ


SAMPLE = st.builds(Sample, st.sampled_from([True, False, None]),
                   st.sampled_from([None, 0.0, 0.5, 1.0, float("nan")]), st.booleans(),
                   st.booleans(), st.integers(0, 50))  # fmt: skip
GROUPS = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(SAMPLE, min_size=n, max_size=n), min_size=1, max_size=6)
)


@given(GROUPS, st.randoms())
def test_figures_are_shares_whatever_the_order(groups, order):
    figures = preflight.figures(groups)
    assert all(0 <= share <= 1 for share in figures[2:7])
    assert figures.missing_eos <= figures.truncated
    shuffled = [order.sample(group, len(group)) for group in order.sample(groups, len(groups))]
    assert preflight.figures(shuffled) == figures


@given(GROUPS)
def test_it_refuses_exactly_where_nothing_can_be_learned(groups):
    figures = preflight.figures(groups)
    stops = [f for f in preflight.examine(figures, grpo()) if f.severity == "stop"]
    assert len(stops) == (figures.dead_groups == 1 or figures.truncated == 1)
    warned = preflight.examine(figures, grpo(preflight="warn"))
    assert {finding.severity for finding in warned} <= {"warning"}
    assert len(warned) == len(preflight.examine(figures, grpo()))
    assert all(finding.what and finding.remedy for finding in warned)


# --- rules ----------------------------------------------------------------------------------------

# rule -> figures that show it with its severity, and figures near by that do not
CASES = {
    "all_cut_off": [({"truncated": 1.0, "dead_groups": 1.0, "pass_rate": 0.0}, "stop"),
                    ({"truncated": 1.0}, "stop"), ({"truncated": 0.99}, None)],
    "none_right": [({"pass_rate": 0.0, "dead_groups": 1.0}, "stop"),
                   ({"pass_rate": 0.0, "dead_groups": 0.9}, "warning"),
                   ({"pass_rate": 0.01, "dead_groups": 0.9}, None),
                   ({"pass_rate": 0.0, "truncated": 1.0, "dead_groups": 1.0}, None)],
    "all_right": [({"pass_rate": 1.0, "dead_groups": 1.0}, "stop"),
                  ({"pass_rate": 1.0, "dead_groups": 0.9}, "warning"),
                  ({"pass_rate": 0.99, "dead_groups": 0.9}, None)],
    "no_difference": [({"dead_groups": 1.0}, "stop"),
                      ({"dead_groups": 1.0, "pass_rate": 0.0, "unjudged": 1.0}, "stop"),
                      ({"dead_groups": 0.99}, None),
                      ({"dead_groups": 1.0, "pass_rate": 0.0}, None)],
    "few_differ": [({"dead_groups": 0.75}, "warning"), ({"dead_groups": 0.65}, None),
                   ({"dead_groups": 1.0}, None)],
    "many_cut_off": [({"truncated": 0.35}, "warning"), ({"truncated": 0.25}, None)],
    "runs_on": [({"truncated": 0.2, "missing_eos": 0.15}, "warning"),
                ({"truncated": 0.2, "missing_eos": 0.05}, None)],
}  # fmt: skip


def test_every_rule_has_a_case():
    assert list(CASES) == [rule.__name__ for rule in preflight.RULES]


@pytest.mark.parametrize("name", CASES)
def test_a_rule_speaks_where_its_trouble_is_and_not_near_by(name):
    for changes, severity in CASES[name]:
        assert found(**changes).get(name) == severity, changes


def test_a_good_start_gives_no_finding():
    assert found() == {}


def test_remedies_name_the_key_and_what_stands_there():
    def remedy(name: str, **changes) -> str:
        figures = WELL._replace(**changes)
        return next(f.remedy for f in preflight.examine(figures, grpo()) if f.name == name)

    assert "sft.max_steps" in remedy("none_right", pass_rate=0.0, dead_groups=1.0)
    assert "data/audit.json" in remedy("none_right", pass_rate=0.0, dead_groups=1.0)
    assert remedy("none_right", pass_rate=0.0, truncated=0.9).startswith(
        "raise grpo.max_completion_length (now 40: 90% are cut off); train SFT longer"
    )
    assert "task.levels" in remedy("all_right", pass_rate=1.0, dead_groups=1.0)
    assert "grpo.max_completion_length to 80" in remedy("all_cut_off", truncated=1.0)
    assert "end token" in remedy("all_cut_off", truncated=1.0, missing_eos=0.9)
    assert "grpo.temperature (now 1)" in remedy("no_difference", dead_groups=1.0)
    assert "None or inf" in remedy("no_difference", dead_groups=1.0, unjudged=1.0)


def test_every_finding_is_in_the_page_on_troubleshooting_and_marked_where_it_refuses():
    page = (ROOT / "docs/troubleshooting.md").read_text().split("## Before training")[1]
    listed = dict(re.findall(r"^\| `(\w+)`(?: \((refuses)\))? \|", page, re.MULTILINE))
    stops = {name for name, cases in CASES.items() if any(s == "stop" for _, s in cases)}
    assert listed == {name: "refuses" if name in stops else "" for name in CASES}


# --- costs ----------------------------------------------------------------------------------------

COSTS = Costs(tokens_per_second=812.4, sampling_seconds=0.01, forward_seconds=0.2,
              update_seconds=0.8, filled=0.5, memory=1_440_000_000, of="memory")  # fmt: skip


def test_costs_of_a_known_training():
    section = grpo(max_steps=60, batch_size=16, gradient_accumulation_steps=2, kl_coef=0.0)
    # 60 x 32 completions of 10 ms, 120 half-filled micro-batches of 0.8 s
    assert preflight.seconds_in_all(COSTS, section) == pytest.approx(19.2 + 48.0)
    assert preflight.expected(COSTS, section) == {
        "tokens_per_second": 812.4, "steps": 60, "seconds_a_step": 1.12, "training_seconds": 67.2,
        "peak_memory_mb": 1440,
    }  # fmt: skip
    said = preflight.in_words(WELL._replace(dead_groups=0.55), COSTS, section)
    assert said == ("40 % right, 45 % of groups differ, 0 % cut off, 812 tokens/s; 60 steps, about "
                    "1:07 min and 1.4 GB of memory")  # fmt: skip
    gpu = preflight.expected(COSTS._replace(of="GPU memory"), section)
    assert gpu["peak_gpu_memory_mb"] == 1440 and "peak_memory_mb" not in gpu


def test_a_kl_penalty_costs_a_forward_pass_and_rollouts_used_twice_cost_half():
    section = grpo(max_steps=60, batch_size=16, kl_coef=0.1)
    plain = preflight.seconds_in_all(COSTS, section.model_copy(update={"kl_coef": 0.0}))
    assert preflight.seconds_in_all(COSTS, section) == pytest.approx(plain + 60 * 0.5 * 0.2)
    twice = section.model_copy(update={"kl_coef": 0.0, "trainer": {"num_iterations": 2}})
    assert preflight.seconds_in_all(COSTS, twice) == pytest.approx(plain - 30 * 16 * 0.01)


# --- params.yaml ----------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["refuse", "warn", "off"])
def test_the_words_of_params_yaml_bare_or_quoted(raw, word):
    for written in (word, f"'{word}'"):
        given = merged(raw, yaml.safe_load(f"grpo: {{preflight: {written}}}"))
        assert params.validate(given, "params.yaml").grpo.preflight == word


@pytest.mark.parametrize("word", ["no way", True, 0, None])
def test_other_words_are_refused(raw, word):
    with pytest.raises(params.UserError, match=r"grpo\.preflight must be refuse, warn or off"):
        params.validate(merged(raw, {"grpo": {"preflight": word}}), "params.yaml")


# --- the stage ------------------------------------------------------------------------------------

ONLY_RIGHT = {"correctness": {"weight": 1.0}}
# rewards differ, and dropout draws from torch's generator: a trace would change the adapter
LEARNS = {"max_steps": 2, "temperature": 2.0, "lora": {"lora_dropout": 0.1}}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A project whose SFT model knows both of its prompts by heart."""
    raw = merged(yaml.safe_load((ROOT / "params.yaml").read_text()), TINY)
    project = Project(tmp_path_factory.mktemp("preflight") / "p", raw)
    settings = params.validate(raw, "params.yaml")
    tokenizer = base.make_tokenizer(settings)
    model = models.from_scratch(known.SHAPE, tokenizer, seed=0)
    known.learn(model, tokenizer, settings)
    models.save_model(model, tokenizer, project.folder / "models/sft")
    (project.folder / "data/audit.json").write_text("{}")
    return project


def trained(project: Project, ok: bool, gold: str | None = None, **section) -> str:
    """The stage's output; `gold` stands in for each right one."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    settings = merged(raw, TINY)
    settings = {**settings, "grpo": {**settings["grpo"], **section}}
    project.write(settings)
    fmt = params.validate(settings, "params.yaml").format
    rows = [
        {"task": "known", "question": question, "prompt": tasks.prompt(question, fmt),
         "gold": gold or right}
        for question, (_, right) in known.KNOWN.items()
    ]  # fmt: skip
    write_rows(project.folder / "data/grpo.jsonl", rows)
    return project.stage("stages.grpo", ok=ok)


def refused(project: Project, **section) -> str:
    """The one line of a refusal; nothing is written."""
    output = trained(project, ok=False, preflight="refuse", rewards=ONLY_RIGHT, temperature=0.1,
                     max_completion_length=40, **section)  # fmt: skip
    made = ("models/adapter", "rollouts", "metrics/grpo.json", "plots/grpo.csv")
    assert not [name for name in made if (project.folder / name).exists()]
    lines = [line for line in output.splitlines() if "does not start" in line]
    assert len(lines) == 1 and "Traceback" not in output
    return lines[0]


def test_a_model_that_knows_everything_is_refused(project):
    said = refused(project)
    assert "preflight: all 8 completions are right, and no group differs in reward" in said
    assert "harder problems (task.levels)" in said


def test_a_model_that_gets_nothing_right_is_refused(project):
    said = refused(project, gold="999")
    assert "preflight: not one of 8 completions is right, and no group differs in reward" in said
    assert "sft.max_steps" in said and "grpo.preflight: warn" in said


def test_training_gives_the_same_bits_with_and_without_a_look_before(project):
    adapters, metrics = [], []
    for how in ("off", "warn"):
        output = trained(project, ok=True, gold="999", preflight=how, **LEARNS)
        assert ("preflight" in output) is (how == "warn")
        adapters.append((project.folder / "models/adapter/adapter_model.safetensors").read_bytes())
        metrics.append(json.loads((project.folder / "metrics/grpo.json").read_text()))
    off, warned = metrics
    assert adapters[0] == adapters[1]
    assert "not one of 8 completions is right: what is learned is other rewards alone" in output
    assert "preflight" not in off and not [f for f in off["findings"] if f["step"] == 0]
    figures = warned.pop("preflight")
    assert figures["pass_rate"] == 0 and figures["dead_groups"] < 1, "there was something to learn"
    costs = warned.pop("preflight_costs")
    assert costs["training_seconds"] > 0 and costs["peak_memory_mb"] > 100
    assert {f["name"] for f in warned["findings"]} >= {"none_right"}
    same = set(off) - {"seconds", "peak_memory_mb", "findings"}
    assert {name: off[name] for name in same} == {name: warned[name] for name in same}
    assert not list(Path(project.folder, ".cache/checkpoints").rglob("preflight.json"))
