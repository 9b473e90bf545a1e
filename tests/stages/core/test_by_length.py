"""A batch in parts of like length: TRL's loss, gradients and metrics, with less padding."""

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import yaml

from stages import base
from stages.core import models, params, sampling, training
from stages.core.by_length import ByLength
from tests.conftest import ROOT, merged

ROWS = [
    {"prompt": [{"role": "user", "content": "2+3?" * n}],
     "completion": [{"role": "assistant", "content": f"<answer>{n}</answer>" * n}]}
    for n in (1, 9, 2, 8, 1, 1, 3, 7)
]  # fmt: skip
KINDS = {
    "plain": {},
    "dft": {"trainer": {"loss_type": "dft", "logging_steps": 1}},
    "accumulated": {"batch_size": 4, "gradient_accumulation_steps": 2},
}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A step of the trainer, in parts or as TRL takes it -> gradients, metrics, widths seen."""
    monkeypatch.setattr(training.resume, "folder", lambda _: tmp_path / "out")
    monkeypatch.setattr(sampling, "A_CALL", 4)

    def step(kind: str, parted: bool):
        raw = merged(yaml.safe_load((ROOT / "params.yaml").read_text()), {
            "base": {"scratch": {"hidden_size": 32, "layers": 1, "heads": 2,
                                 "intermediate_size": 64}},
            "sft": {"batch_size": 8, "precision": "fp32", "optimizer": "adamw", "max_length": 256,
                    "max_steps": 1, "trainer": {"logging_steps": 1}},
        })  # fmt: skip
        given = params.validate(merged(raw, {"sft": KINDS[kind]}), "params.yaml")
        tokenizer = base.make_tokenizer(given)
        model = models.from_scratch(given.base.scratch, tokenizer, seed=0)
        run = SimpleNamespace(name="sft")
        trainer = training.supervisor(model, tokenizer, ROWS, given.sft, run, 0)
        if not parted:
            above = partial(super(ByLength, trainer).compute_loss)
            trainer.compute_loss = above
        widths = []
        model.get_decoder().register_forward_pre_hook(
            lambda _, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)),
            with_kwargs=True,
        )
        grads = {}
        trainer.add_callback(Grads(grads))
        trainer.train()
        return grads, trainer.state.log_history[0], widths

    return step


class Grads(training.TrainerCallback):
    def __init__(self, kept: dict):
        self.kept = kept

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.kept |= {n: copy.deepcopy(p.grad) for n, p in model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_loss_gradients_and_metrics_are_trls(trained, kind):
    (ours, logged, parts), (trls, theirs, batches) = trained(kind, True), trained(kind, False)
    assert ours.keys() == trls.keys() and len(ours) > 5
    for name, gradient in trls.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6)
    for name in ("loss", "entropy", "mean_token_accuracy", "num_tokens", "grad_norm"):
        assert logged[name] == pytest.approx(theirs[name], rel=1e-4), name
    assert len(parts) > len(batches)
    assert sum(n for n, _ in parts) == sum(n for n, _ in batches) == len(ROWS)
    padded, fewer = (sum(n * width for n, width in seen) for seen in (batches, parts))
    assert fewer < 0.8 * padded
