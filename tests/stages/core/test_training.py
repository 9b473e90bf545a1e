from types import SimpleNamespace

import pytest

from stages.core import training
from stages.core.errors import UserError


class Run:
    name = "sft"

    def __init__(self):
        self.logged = []

    def log(self, step, metrics):
        self.logged.append((step, metrics))


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_training(name, value):
    report = training.Report(Run())
    with pytest.raises(UserError, match=rf"{name} is (nan|inf) at step 7.*sft\.learning_rate"):
        report.on_log(None, SimpleNamespace(global_step=7), None, {"loss": 1.0, name: value})


def test_metrics_carry_the_names_users_know_and_no_timings():
    run = Run()
    report = training.Report(run, {"reward": "mean_reward", "kl": "kl_div"})
    logs = {"reward": 0.5, "kl": 0.1, "step_time": 3.0, "epoch": 1.0, "loss": 2.0}
    report.on_log(None, SimpleNamespace(global_step=3), None, logs)
    assert run.logged == [(3, {"mean_reward": 0.5, "kl_div": 0.1, "loss": 2.0})]


def test_fp16_without_a_gpu_is_refused():
    import torch

    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        training.precision("fp16")
    assert training.precision("auto") == "bf16"
