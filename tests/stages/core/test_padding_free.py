"""Rows that share a sequence are what they are alone, and so is what is learned of them."""

import itertools
import random
from types import SimpleNamespace

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import MambaConfig, MambaForCausalLM

from stages import base
from stages.core import models, params, training
from stages.core.errors import UserError
from stages.core.padding_free import (
    MULTIPLE,
    Together,
    best_fit,
    best_width,
    require_apart,
    rounded,
)
from tests.architectures import EVERY, made
from tests.conftest import ROOT, merged

LENGTHS = st.lists(st.integers(1, 70), min_size=1, max_size=40)
WORDS = "red blue old new big small green round"
ROWS = [
    {"prompt": [{"role": "user", "content": f"Bea has {n} {WORDS[: 3 * n]} pens. How many?"}],
     "completion": [{"role": "assistant", "content": f"<think>{n}</think><answer>{n}</answer>"}]}
    for n in range(1, 13)
]  # fmt: skip


def row(length: int, first: int = 1) -> dict[str, list[int]]:
    ids = [first + i % 30 for i in range(length)]
    return {"input_ids": ids, "labels": [-100] * (length // 2) + ids[length // 2 :]}


@given(LENGTHS)
def test_each_row_has_its_place_and_none_overflows(lengths):
    sequences = best_fit(lengths, 70)
    assert sorted(i for places in sequences for i in places) == list(range(len(lengths)))
    fill = sorted(sum(lengths[i] for i in places) for places in sequences)
    assert fill[-1] <= 70
    assert len(fill) == 1 or fill[0] + fill[1] > 70, "two would go into one"


@given(LENGTHS)
def test_a_batch_holds_its_rows_and_nothing_else_is_learned(lengths):
    batch = Together(70, pad=0)([row(length, i) for i, length in enumerate(lengths, 1)])
    assert batch["tokens"].tolist() == [sum(lengths)]
    assert batch["input_ids"].shape[1] % MULTIPLE == 0
    found, starts = [], batch["position_ids"] == 0
    for n in range(len(starts)):
        borders = [*starts[n].nonzero().flatten().tolist(), starts.shape[1]]
        for begin, end in itertools.pairwise(borders):
            positions = batch["position_ids"][n, begin:end]
            assert positions.tolist() == list(range(end - begin))
            ids, labels = (batch[k][n, begin:end].tolist() for k in ("input_ids", "labels"))
            if any(ids):
                found.append({"input_ids": ids, "labels": labels})
            else:
                assert set(labels) == {-100}
    wanted = [row(length, i) for i, length in enumerate(lengths, 1)]
    assert sorted(map(str, found)) == sorted(map(str, wanted))


@EVERY
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_are_those_of_the_row_alone(architecture, attention):
    model = made(architecture).eval()
    model.set_attn_implementation(attention)
    rows = [row(length, 2 * i + 1) for i, length in enumerate((9, 20, 14, 5))]
    batch = Together(64, pad=0)(rows)
    assert len(batch["input_ids"]) == 1
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"],
                       use_cache=False).logits[0]  # fmt: skip
        at = 0
        for places in best_fit([9, 20, 14, 5], 64):
            for i in places:
                ids = torch.tensor([rows[i]["input_ids"]])
                alone = model(input_ids=ids, use_cache=False).logits[0]
                torch.testing.assert_close(logits[at : at + len(alone)], alone)
                at += len(alone)
    require_apart(model, batch["input_ids"])


def test_a_model_whose_rows_would_see_each_other_is_refused():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "vocab_size": 40}
    model = MambaForCausalLM(MambaConfig(**shape)).train()
    with pytest.raises(UserError, match=r"rows of a sequence see each other.*leave padding_free"):
        require_apart(model, torch.arange(32).reshape(2, 16))
    assert model.training


@pytest.fixture
def supervisor(tmp_path, monkeypatch):
    """The stage's trainer on ROWS in float32, with these settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(training.resume, "folder", lambda _: tmp_path / "out")
    raw = merged(yaml.safe_load((ROOT / "params.yaml").read_text()), {
        "base": {"scratch": {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 64}},
        "sft": {"max_steps": 6, "batch_size": 4, "precision": "fp32", "optimizer": "adamw"},
    })  # fmt: skip
    tokenizer = base.make_tokenizer(params.validate(raw, "params.yaml"))

    def made(attention: str = "eager", **settings):
        given = params.validate(merged(raw, {"sft": settings}), "params.yaml")
        model = models.from_scratch(given.base.scratch, tokenizer, seed=0)
        model.config._attn_implementation = attention
        run = SimpleNamespace(name="sft")
        return training.supervisor(model, tokenizer, ROWS, given.sft, run, 0)

    return made


def trained(trainer) -> tuple[dict[str, torch.Tensor], list[dict]]:
    trainer.train()
    weights = {name: weight.detach() for name, weight in trainer.model.named_parameters()}
    return weights, trainer.state.log_history


@pytest.mark.parametrize("accumulated", [1, 2])
def test_it_learns_what_padded_batches_teach(supervisor, accumulated):
    settings = {"gradient_accumulation_steps": accumulated, "trainer": {"logging_steps": 1}}
    padded, theirs = trained(supervisor(padding_free=False, **settings))
    free, ours = trained(supervisor(padding_free=True, **settings))
    for name, weight in padded.items():
        torch.testing.assert_close(free[name], weight, rtol=1e-3, atol=1e-5)
    names = ("loss", "grad_norm", "num_tokens", "mean_token_accuracy", "entropy")
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):
        assert {k: a[k] for k in names} == pytest.approx({k: b[k] for k in names}, rel=1e-3)


@pytest.mark.parametrize("of", [(38, 40, 43, 48, 67), (50, 52, 55, 74)])
def test_little_is_left_empty(of):
    chosen = random.Random(0)
    every = [chosen.choice(of) for _ in range(1000)]
    width = best_width(every, 32, hidden=160)
    assert max(of) <= width <= rounded(2 * max(of))
    for _ in range(20):
        lengths = chosen.sample(every, 32)
        batch = Together(width, pad=0)([row(length) for length in lengths])
        assert batch["input_ids"].numel() < min(1.3 * sum(lengths), 32 * max(of))


@pytest.mark.parametrize(
    ("length", "longest", "width"), [(60, 70, 128), (45, 60, 96), (30, 32, 32)]
)
def test_a_width_is_as_small_as_fills_it(length, longest, width):
    assert best_width([length] * 99 + [longest], 32, hidden=160) == width


def test_where_kernels_do_it_it_is_left_to_trl(supervisor):
    trainer = supervisor("flash_attention_2", padding_free=True)
    assert trainer.data_collator.padding_free
    assert type(trainer).__name__ == "SFTTrainer"


def test_rows_that_trl_packs_stay_as_it_packs_them(supervisor):
    trainer = supervisor(padding_free=True, trainer={"packing": True})
    assert type(trainer).__name__ == "SFTTrainer"
    assert "seq_lengths" in trainer.train_dataset.column_names
