"""Each rule on curves that show its trouble and on near ones that do not; real ones; any."""

import csv
import math
import random
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core import doctor, params
from stages.core.tracking import numbers
from tests.conftest import ROOT, merged

PARAMS = params.load(ROOT / "params.yaml")
RULES = {rule.__name__ for rule in (*doctor.GRPO_RULES, *doctor.SUPERVISED_RULES)}


def grpo(**changes) -> params.Grpo:
    return PARAMS.grpo.model_copy(update={"max_steps": 60, **changes})


def curve(n: int = 60, **metrics) -> list[dict]:
    """Rows of a run with nothing to say of; a metric is a number, or a function of the step."""
    quiet = {
        "loss": 0.01, "grad_norm": 0.1, "mean_reward": lambda s: 0.2 + 0.008 * s,
        "accuracy": lambda s: 0.2 + 0.008 * s, "format_compliance_rate": 0.97, "entropy": 0.2,
        "kl_div": 0.1, "truncated": 0.0, "dead_groups": 0.3, "completion_length": 30.0,
    }  # fmt: skip
    noise = random.Random(0)
    rows = []
    for step in range(1, n + 1):
        wanted = {**quiet, **metrics}.items()
        row = {k: v(step) if callable(v) else v for k, v in wanted if v is not None}
        for rate in ("accuracy", "mean_reward"):
            if row.get(rate):
                row[rate] += noise.gauss(0, 0.02)
        rows.append({"step": step, **row})
    return rows


def names(rows: list[dict], section: params.Training) -> set[str]:
    return {finding.name for finding in doctor.diagnose(rows, section)}


def falls(step):
    return 0.6 - 0.008 * step


NAN, INF = math.nan, math.inf
PAID = {"rewards": {"format": params.Reward(weight=0.5), "correctness": params.Reward()}}
FORMAT_UP = {"rewards/format/mean": lambda s: 0.3 + 0.01 * s, "accuracy": falls}

# name -> (metrics, settings) that show it, (metrics, settings) near by that do not
CASES = {
    "not_finite": (({"loss": NAN}, {}), ({"mean_reward": lambda s: NAN if s == 60 else 0.5}, {})),
    "kl_over_limit": (({"kl_div": 1.1}, {"max_kl": 1.0}),
                      ({"kl_div": lambda s: 5.0 if s == 60 else 0.9}, {"max_kl": 1.0})),
    "kl_high": (({"kl_div": 0.55}, {}), ({"kl_div": 0.45}, {})),
    "nothing_right": (({"accuracy": 0.0}, {}),
                      ({"accuracy": lambda s: 0.2 if s == 9 else 0.0}, {})),
    "success_not_rising": (({"accuracy": 0.3}, {}), ({"accuracy": lambda s: 0.3 + 0.003 * s}, {})),
    "success_falling": (({"accuracy": falls}, {}), ({"accuracy": lambda s: 0.6 - 0.0003 * s}, {})),
    "reward_hacked": ((FORMAT_UP, PAID), ({**FORMAT_UP, "accuracy": 0.4}, PAID)),
    "incoherent": (({"mean_reward": falls, "entropy": lambda s: 0.2 + 0.02 * s}, {}),
                   ({"mean_reward": falls, "entropy": lambda s: 0.2 + 0.0005 * s}, {})),
    "entropy_collapse": (({"entropy": lambda s: 0.2 * 0.93**s}, {}),
                         ({"entropy": lambda s: 0.2 * 0.98**s}, {})),
    "truncated": (({"truncated": 0.35}, {}), ({"truncated": 0.25}, {})),
    "poor_format": (({"format_compliance_rate": 0.7}, {}),
                    ({"format_compliance_rate": lambda s: 0.2 + 0.008 * s}, {})),
    "dead_groups": (({"dead_groups": 0.75}, {}), ({"dead_groups": 0.65}, {})),
    "gradient_spike": (({"grad_norm": lambda s: 1.1 if s == 60 else 0.1}, {}),
                       ({"grad_norm": lambda s: 0.9 if s == 60 else 0.1}, {})),
    "loss_zero": (({"loss": 1e-9}, {}), ({"loss": 1e-3}, {})),
    "slow": (({"step_time": 40.0, "profiling/generation": 30.0, "profiling/rewards": 1.0}, {}),
             ({"step_time": 20.0, "profiling/generation": 15.0, "profiling/rewards": 1.0}, {})),
}  # fmt: skip


def test_every_rule_has_a_case():
    assert CASES.keys() == {rule.__name__ for rule in doctor.GRPO_RULES}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_speaks_where_its_trouble_is_and_not_near_by(name):
    (metrics, settings), (near, near_settings) = CASES[name]
    assert name in names(curve(**metrics), grpo(**settings))
    assert name not in names(curve(**near), grpo(**near_settings))


def test_a_quiet_run_gives_nothing():
    rows = curve()
    assert not any(names(rows[:n], grpo()) for n in range(len(rows) + 1))


@pytest.mark.parametrize("name", CASES)
def test_a_metric_that_is_missing_gives_no_finding(name):
    (metrics, settings), _ = CASES[name]
    without = dict.fromkeys(metrics)
    if name == "success_not_rising":
        without["mean_reward"] = None  # which stands in for accuracy
    assert name not in names(curve(**without), grpo(**settings))


def test_what_is_over_the_limit_stops_and_what_is_high_warns():
    rows = curve(kl_div=1.1)
    limited = {f.name: f.severity for f in doctor.diagnose(rows, grpo(max_kl=1.0))}
    assert limited == {"kl_over_limit": "stop", "kl_high": "warning"}
    assert names(rows, grpo()) == {"kl_high"}


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("name", ["loss", "grad_norm", "mean_reward"])
def test_no_number_stops_any_training(name, value):
    found = doctor.diagnose(curve(**{name: value}), grpo())[0]
    assert (found.name, found.severity) == ("not_finite", "stop")
    assert found.what.startswith(f"{name} is {value}")


def test_rewards_that_trl_logs_as_none_stop_a_training():
    """Of a step without any judged completion TRL logs None; a row of the kept curve lacks it."""
    rows = [{**row, "unjudged": 1.0, "mean_reward": None} for row in curve(3)]
    kept = [{k: v for k, v in row.items() if v is not None} for row in rows]
    for seen in (rows, kept):
        assert [f.severity for f in doctor.diagnose(seen, grpo())] == ["stop"]
        assert doctor.diagnose(seen[1:], grpo()) == []
        assert doctor.diagnose([*curve(2), seen[0]], grpo()) == []


def test_dead_groups_of_right_answers_are_no_trouble():
    rows = curve(dead_groups=0.9, accuracy=0.95)
    assert [f.severity for f in doctor.diagnose(rows, grpo())] == ["info"]
    assert [f.severity for f in doctor.diagnose(curve(dead_groups=0.9), grpo())] == ["warning"]


def test_a_reward_that_is_not_paid_is_not_hacked():
    unpaid = {"rewards": {**PAID["rewards"], "format": params.Reward(weight=0.0)}}
    calm = {**FORMAT_UP, "mean_reward": 0.4}
    assert "reward_hacked" in names(curve(**calm), grpo(**PAID))
    assert "reward_hacked" not in names(curve(**calm), grpo(**unpaid))


def test_remedies_name_what_stands_in_the_parameters():
    settings = {"group_size": 4, "temperature": 0.7, "kl_coef": 0.05, "learning_rate": 1e-6}
    (found,) = doctor.diagnose(curve(accuracy=0.3), grpo(**settings))
    parts = ("group_size (now 4) to 8", "temperature (now 0.7) to 1", "on known",
             "learning_rate (now 1e-06) to 1e-5", "kl_coef (now 0.05)", "max_steps")  # fmt: skip
    assert [part for part in parts if part not in found.remedy] == []
    (low,) = doctor.diagnose(curve(accuracy=0.1), grpo(**settings))
    assert low.remedy.startswith("more SFT first")
    (well,) = doctor.diagnose(curve(accuracy=0.3), grpo())
    assert "group_size" not in well.remedy and "temperature" not in well.remedy


@pytest.mark.parametrize(
    ("generation", "rewards", "part"),
    [(30.0, 2.0, "75% of it generation"), (10.0, 20.0, "50% of it rewards"),
     (8.0, 2.0, "75% of it update")],
)  # fmt: skip
def test_what_takes_the_time_is_named(generation, rewards, part):
    metrics = {"profiling/generation": generation, "profiling/rewards": rewards}
    (found,) = doctor.diagnose(curve(step_time=40.0, **metrics), grpo())
    assert part in found.what
    halved = {name: seconds / 2 for name, seconds in metrics.items()}
    twice = grpo(gradient_accumulation_steps=2, trainer={"steps_per_generation": 1})
    (found,) = doctor.diagnose(curve(step_time=40.0, **halved), twice)
    assert part in found.what


def test_the_loss_of_supervised_training():
    noise = random.Random(0)
    still = [{"step": s, "loss": 2 + noise.gauss(0, 0.05)} for s in range(10, 501, 10)]
    falls = [{**row, "loss": row["loss"] - row["step"] / 1000} for row in still]
    for section in (PARAMS.sft, PARAMS.distill.model_copy(update={"max_steps": 500})):
        assert names(still, section) == {"loss_not_falling"}
        assert names(falls, section) == set()
        assert names(still[:20], section) == set()  # too early
    assert names([{"step": 1, "loss": NAN}], PARAMS.sft) == {"not_finite"}


def real(name: str) -> list[dict]:
    with (Path(__file__).parent / "curves" / f"{name}.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def told(rows: list[dict], section: params.Training) -> list[tuple[str, str]]:
    """Findings as a run would tell them, each once."""
    found = {}
    for n in range(1, len(rows) + 1):
        for finding in doctor.diagnose(rows[:n], section, found):
            found[finding.name] = finding.severity
    return list(found.items())


def test_real_runs_that_learned_are_left_in_peace():
    default = grpo(max_steps=24)
    assert told(real("good"), default) == [("dead_groups", "info")]  # .88 are right at the end
    assert told(real("good")[:23], default) == []
    assert told(real("code"), grpo(max_steps=20)) == []
    assert told(real("sft"), PARAMS.sft) == []


def test_a_real_run_that_was_spoilt_is_not():
    """The good one backwards forgets what it had learned."""
    rows = [{**row, "step": i} for i, row in enumerate(reversed(real("good")), 1)]
    assert ("success_falling", "warning") in told(rows, grpo(max_steps=24))


def share_told(name: str, rise: float) -> float:
    """Of 50 runs of 60 steps, noisy as measured (0.09 a step), that gain `rise`."""
    told_of = 0
    for seed in range(50):
        noise = random.Random(seed)
        rates = [0.3 + rise * i / 60 + noise.gauss(0, 0.09) for i in range(60)]
        rows = [{"step": i + 1, "accuracy": rate} for i, rate in enumerate(rates)]
        told_of += name in dict(told(rows, grpo()))
    return told_of / 50


def test_noise_is_neither_a_rise_nor_a_fall():
    assert share_told("success_not_rising", 0.0) > 0.7
    assert share_told("success_not_rising", 0.3) == 0
    assert share_told("success_falling", 0.0) < 0.1
    assert share_told("success_falling", -0.3) > 0.9


ROW = st.dictionaries(
    st.sampled_from([*curve(1)[0], "step_time", "profiling/generation", "profiling/rewards",
                     "rewards/correctness/mean", "rewards/format/mean"]),
    st.one_of(st.floats(), st.integers(-10, 10), st.none()),
)  # fmt: skip


@given(st.lists(ROW, max_size=40), st.booleans())
def test_no_curve_makes_a_rule_raise(rows, supervised):
    rows = [{**row, "step": step} for step, row in enumerate(rows)]
    section = PARAMS.sft if supervised else grpo(max_kl=0.5, max_steps=len(rows) + 1, **PAID)
    for finding in doctor.diagnose(rows, section):
        assert finding.name in RULES and finding.what and finding.remedy
    doctor.in_words(doctor.targets(rows))


@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=30), st.floats(-10, 10))
def test_a_line_is_fitted_by_least_squares(series, slope):
    tilted = doctor.line([y + slope * x for x, y in enumerate(series)])
    plain = doctor.line(series)
    n = len(series)
    assert tilted.rise == pytest.approx(plain.rise + slope * (n - 1), abs=1e-6)
    assert tilted.error == pytest.approx(plain.error, abs=1e-4)


def test_the_standard_error_of_a_line_is_its_spread_over_samples():
    noise = random.Random(0)
    lines = [doctor.line([noise.gauss(0, 1) for _ in range(20)]) for _ in range(2000)]
    spread = math.sqrt(sum(line.rise**2 for line in lines) / len(lines))
    assert spread == pytest.approx(sum(line.error for line in lines) / len(lines), rel=0.05)


def test_targets_are_reached_or_not_or_not_measured():
    rows = curve(accuracy=0.8, mean_reward=0.6, kl_div=None)
    found = {target["name"]: target["reached"] for target in doctor.targets(rows)}
    assert found == {"mean_reward": False, "accuracy": True, "format_compliance_rate": True,
                     "kl_div": None}  # fmt: skip
    words = doctor.in_words(doctor.targets(rows))
    assert "(> 0.7: not reached), accuracy" in words and "kl_div (< 0.5: not measured)" in words


def test_findings_are_no_numbers_to_the_trackers():
    findings = [asdict(finding) for finding in doctor.diagnose(curve(loss=NAN), grpo())]
    assert findings
    assert numbers({"accuracy": 0.5, "findings": findings, "targets": doctor.targets([])}) == {
        "accuracy": 0.5
    }


def test_memory_advice_keeps_the_effective_batch():
    section = grpo(batch_size=8, gradient_accumulation_steps=4, group_size=8)
    advice = doctor.memory_advice(section)
    assert advice.startswith("1. grpo.batch_size 8 -> 4 and grpo.gradient_accumulation_steps 4 -> 8"
                             " (still 32 a step); 2. grpo.trainer.activation_checkpointing true; 3."
                             " grpo.max_completion_length 40 -> 20; 4. grpo.group_size 8 -> 4; 5. "
                             "grpo.quantize nf4; 6. ")  # fmt: skip
    one = doctor.memory_advice(PARAMS.sft.model_copy(update={"batch_size": 1, "trainer": {}}))
    assert one.startswith("1. sft.max_length 128 -> 64; 2. sft.method full -> lora; 3. ")


def test_where_all_weights_are_trained_an_adapter_is_advised_and_4_bits_are_not():
    advice = doctor.memory_advice(PARAMS.grpo.model_copy(update={"lora": None}))
    assert "grpo.lora (an adapter) in place of null" in advice and "nf4" not in advice


def test_memory_advice_of_on_policy_distillation_is_a_smaller_step():
    section = PARAMS.distill.model_copy(update={"method": "on_policy"})
    advice = doctor.memory_advice(section, sampling=True)
    assert advice.startswith("1. distill.batch_size 48 -> 24 (the step becomes smaller)")
    assert "distill.max_completion_length 40 -> 20" in advice
    accumulated = section.model_copy(update={"gradient_accumulation_steps": 4})
    assert "distill.gradient_accumulation_steps 4 -> 2" in doctor.memory_advice(accumulated, True)


def test_memory_advice_while_sampling_samples_fewer_at_once():
    section = grpo(batch_size=8, gradient_accumulation_steps=4, group_size=8)
    assert "1. grpo.trainer.steps_per_generation 4 -> 2 (16 completions" in doctor.memory_advice(
        section, sampling=True
    )
    assert doctor.memory_advice(grpo(), sampling=True).startswith(
        "1. grpo.batch_size 128 -> 64, grpo.gradient_accumulation_steps 1 -> 2 and "
        "grpo.trainer.steps_per_generation 1 (still 128 a step, 64 at once); 2. "
    )


@given(st.integers(1, 64), st.integers(1, 64), st.integers(2, 16), st.booleans())
def test_memory_advice_always_ends_in_something_to_do(batch, accumulation, group, sampling):
    section = grpo(batch_size=batch, gradient_accumulation_steps=accumulation, group_size=group)
    assert "a smaller model" in doctor.memory_advice(section, sampling)


def test_a_limit_on_a_kl_that_is_not_measured_is_refused(raw):
    params.validate(merged(raw, {"grpo": {"max_kl": 1.0, "kl_coef": 0.01}}), "params.yaml")
    with pytest.raises(params.UserError, match=r"grpo\.max_kl: TRL measures the KL only where"):
        params.validate(merged(raw, {"grpo": {"max_kl": 1.0}}), "params.yaml")


def test_every_finding_is_in_the_page_on_troubleshooting():
    page = (ROOT / "docs/troubleshooting.md").read_text()
    assert not [name for name in RULES if f"| `{name}`" not in page]
