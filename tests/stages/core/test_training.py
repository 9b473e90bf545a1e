from types import SimpleNamespace

import pytest
import torch

from stages.core import params, training
from stages.core.errors import UserError
from tests.conftest import ROOT

PARAMS = params.load(ROOT / "params.yaml")


class Run:
    name = "sft"

    def __init__(self):
        self.logged = []
        self.tables = {}
        self.findings = []

    def table(self, name, rows):
        self.tables[name] = rows

    def log(self, step, metrics):
        self.logged.append((step, metrics))


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_training(name, value):
    run = Run()
    doctor = training.Doctor(run, PARAMS.sft)
    with pytest.raises(UserError, match=rf"{name} is (nan|inf) at step 7.*sft\.learning_rate"):
        doctor.on_log(None, SimpleNamespace(global_step=7), None, {"loss": 1.0, name: value})
    assert [finding["name"] for finding in run.tables["findings.json"]] == ["not_finite"]


def test_a_finding_is_told_once_and_handed_over_at_the_end(caplog):
    run = Run()
    doctor = training.Doctor(run, PARAMS.grpo, {"kl": "kl_div"})
    for step in range(1, 9):
        doctor.on_log(None, SimpleNamespace(global_step=step), None, {"kl": 0.9, "loss": 0.1})
    doctor.on_train_end(None, None, None)
    assert caplog.text.count("sft: doctor: step 3: kl_div is 0.90, over 0.5") == 1
    assert caplog.text.count("doctor") == 1
    assert [finding["name"] for finding in run.findings] == ["kl_high"]
    assert run.tables["findings.json"] == run.findings


def test_a_kl_over_the_limit_stops_training():
    limited = PARAMS.grpo.model_copy(update={"max_kl": 2.0})
    doctor = training.Doctor(Run(), limited, {"kl": "kl_div"})
    levels = [9.0, 9.0, 0.1, 3.0, 3.0, 3.5]  # a spike passes
    with pytest.raises(UserError, match=r"over grpo\.max_kl 2 .* at step 6: training stopped"):
        for step, kl in enumerate(levels, 1):
            doctor.on_log(None, SimpleNamespace(global_step=step), None, {"kl": kl})
    assert len(doctor.curve) == 6


def update():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")


def _generate_single_turn():
    update()


def test_out_of_memory_says_what_to_lower_in_this_runs_numbers():
    says = r"memory \(CUDA.*GiB\.\).*1\. grpo\.batch_size 128 -> 64"
    with pytest.raises(UserError, match=says), training.memory_advised(PARAMS.grpo):
        update()
    says = r"memory while sampling.*steps_per_generation"
    with pytest.raises(UserError, match=says), training.memory_advised(PARAMS.grpo):
        _generate_single_turn()


def test_metrics_carry_the_names_users_know_and_no_timings():
    run = Run()
    report = training.Report(run, {"reward": "mean_reward", "kl": "kl_div"})
    logs = {"reward": 0.5, "kl": 0.1, "step_time": 3.0, "epoch": 1.0, "loss": 2.0}
    report.on_log(None, SimpleNamespace(global_step=3), None, logs)
    assert run.logged == [(3, {"mean_reward": 0.5, "kl_div": 0.1, "loss": 2.0})]


def test_fp16_without_a_gpu_is_refused():
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        training.precision("fp16")
    assert training.precision("auto") == "bf16"
