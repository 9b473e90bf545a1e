"""A group's prompt computed once: the same as each completion by itself, and as TRL."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.utils import add_fused_lm_head

from stages import base, grpo, tasks
from stages.core import models, shared_prompt
from stages.core.files import read_rows, write_rows
from stages.core.shared_prompt import alike, merged, obstacles, scored
from tests import replayed, small_grpo
from tests.architectures import EVERY, PROMPTS, made
from tests.known import learn
from tests.small_grpo import apart, batch, train, trainer


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return small_grpo.project(tmp_path_factory.mktemp("grpo"))


@pytest.fixture
def inside(project, monkeypatch) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(project)


# --- the loss -------------------------------------------------------------------------------------


def groups(lengths: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Token ids and mask as TRL hands them on: of each prompt completions of such lengths."""
    torch.manual_seed(1)
    width, new = max(map(len, PROMPTS)), max(map(max, lengths))
    ids, mask = [], []
    for prompt, of in zip(PROMPTS, lengths, strict=True):
        for length in of:
            completion = torch.randint(10, 40, (length,)).tolist()
            before, behind = width - len(prompt), new - length
            ids.append([0] * before + prompt + completion + [0] * behind)
            mask.append([0] * before + [1] * (len(prompt) + length) + [0] * behind)
    ids, mask = torch.tensor(ids), torch.tensor(mask)
    ids[1], mask[1] = ids[0], mask[0]  # a completion that was sampled twice
    shuffled = torch.randperm(len(ids))  # as TRL does
    return ids[shuffled], mask[shuffled], new


def by_itself(model, ids: torch.Tensor, mask: torch.Tensor, new: int) -> tuple[torch.Tensor, ...]:
    """Log-probabilities and entropies from the logits of each row, without any padding."""
    logps, entropies = torch.zeros(len(ids), new), torch.zeros(len(ids), new)
    for i, (row, kept) in enumerate(zip(ids, mask.bool(), strict=True)):
        length = int(kept[-new:].sum())
        logits = model(input_ids=row[kept][None]).logits[0, -length - 1 : -1] / 0.7
        everything = logits.log_softmax(-1)
        drawn = row[kept][-length:, None]
        logps[i, :length] = everything.gather(1, drawn)[:, 0]
        entropies[i, :length] = -(everything.exp() * everything).sum(-1)
    return logps, entropies


@EVERY
@pytest.mark.parametrize("a_call", [1, 256], ids=["by length", "together"])
def test_scores_and_gradients_are_those_of_each_completion_by_itself(
    architecture, a_call, monkeypatch
):
    monkeypatch.setattr(shared_prompt, "A_CALL", a_call)
    model = made(architecture)
    ids, mask, new = groups([[4, 4, 1], [9, 2], [30, 3, 3, 5]])
    wanted = by_itself(model, ids, mask, new)
    weight = torch.randn(len(ids), new)
    (wanted[0] * weight).sum().backward()
    slopes = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    add_fused_lm_head(model, temperature=0.7, outputs=("log_probs", "entropy"))
    found = scored(model, model, ids, mask, new)
    (found[0] * weight * mask[:, -new:]).sum().backward()
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one * mask[:, -new:], other, atol=2e-5, rtol=2e-5)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, slopes[name], atol=5e-5, rtol=1e-3)


def test_a_model_sees_a_prompt_and_equal_completions_once(inside):
    seen = []
    model = made("llama")
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    model.model.register_forward_pre_hook(
        lambda _, __, given: seen.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    scored(model, model, *groups([[4, 4, 1], [4, 2], [3, 3, 3, 5]]))
    assert seen == [(3, 5), (8, 6)], "three prompts less a token; eight distinct, and that token"


@given(st.lists(st.integers(1, 400), min_size=1, max_size=64).map(sorted))
def test_parts_of_like_length_hold_everything_and_never_more_padding(lengths):
    sizes = alike(lengths)
    assert sum(sizes) == len(lengths) and min(sizes) > 0
    parts, start = [], 0
    for size in sizes:
        parts.append(lengths[start : start + size])
        start += size
    area = sum(len(part) * part[-1] for part in parts)
    saved = len(lengths) * lengths[-1] - area
    assert saved >= (len(sizes) - 1) * shared_prompt.A_CALL


# --- beside TRL's trainer, on the same completions ------------------------------------------------

SGD = {"learning_rate": 0.5, "max_steps": 3, "trainer": {"optim": "sgd", "max_grad_norm": 0.0}}
SETTINGS = {
    "KL": {"kl_coef": 0.1},
    "two updates": {"trainer": {"num_iterations": 2}},
    "accumulated": {"batch_size": 8, "gradient_accumulation_steps": 2},
    "all weights": {"lora": None, "kl_coef": 0.1, "learning_rate": 0.01},
    "nf4": {"quantize": "nf4"},
    "truncated left out": {"trainer": {"mask_truncated_completions": True}},
    "entropy bonus": {"trainer": {"entropy_coef": 0.3, "num_iterations": 2}},
    "groups that earn the same": {
        "rewards": {"format": {"weight": 0.0}},
        "trainer": {"num_iterations": 2},
    },
    "likely tokens left out": {"trainer": {"top_entropy_quantile": 0.5}},
    "cispo": {"trainer": {"loss_type": "cispo", "epsilon_high": 1.1, "num_iterations": 2}},
    **{
        loss: {"trainer": {"loss_type": loss, "num_iterations": 2}}
        for loss in ("grpo", "bnpo", "dr_grpo", "dapo", "sapo", "vespo")
    },
    # weighs a completion by its length: at SGD's rate noise would grow from step to step
    "luspo": {"learning_rate": 0.05, "trainer": {"loss_type": "luspo", "num_iterations": 2}},
}


def both(changes: dict, monkeypatch) -> tuple[small_grpo.Trained, small_grpo.Trained]:
    """A training on given completions, with prompts shared and by TRL."""
    monkeypatch.setattr(grpo, "recording_trainer", replayed.replaying)
    changes = small_grpo.merged(SGD, {"preflight": "off", **changes})
    one, other = (train({**changes, "shared_prompt": shared}) for shared in (True, False))
    return one, other


@pytest.mark.parametrize("setting", SETTINGS)
def test_training_is_trls(setting, inside, monkeypatch):
    monkeypatch.setattr(shared_prompt, "WORTH", 0)
    shared, trls = both(SETTINGS[setting], monkeypatch)
    assert any(shared.column("dead_groups")) == (setting == "groups that earn the same")
    for a, b in zip(shared.curve, trls.curve, strict=True):
        assert a.keys() == b.keys()
        for name in {"loss", "grad_norm", "mean_reward", "entropy", "kl_div"} & a.keys():
            assert a[name] == pytest.approx(b[name], rel=2e-3, abs=2e-5), name
    names = [name for name in trls.weights if "lora_A" not in name]
    learned = max(trls.weights[name].abs().max().item() for name in names)
    assert apart(shared.weights, trls.weights) < 1e-3 * learned


SAME = 0.7  # eight of it, added in float32 and divided by 8, are something else


@pytest.mark.parametrize(
    ("changes", "worth", "dead", "with_gradients"),
    [({}, 0, 1, 8), ({"precision": "bf16"}, 0, 1, 8), ({}, 0, 2, 1), ({}, 0, 0, 16),
     ({}, shared_prompt.WORTH, 1, 16), ({"kl_coef": 0.1}, 0, 1, 16),
     ({"trainer": {"entropy_coef": 0.1}}, 0, 1, 16),
     ({"pass_at": 2, "trainer": {"scale_rewards": "none"}}, 0, 1, 8)],
    ids=["one", "one, in halves", "both", "none", "too little", "KL", "entropy bonus",
         "the best of two"],
)  # fmt: skip
def test_a_group_that_earns_the_same_goes_forward_only(
    changes, worth, dead, with_gradients, inside, monkeypatch
):
    monkeypatch.setattr(shared_prompt, "WORTH", worth)

    def reward(prompts, **_) -> list[float]:
        """The same for a dead group, of eight: a mean that rounds. Else each its own."""
        return [SAME if i < 8 * dead else 0.1 * i for i in range(len(prompts))]

    one = trainer({"group_size": 8, **changes}, functions=[reward])
    inputs = one._generate_and_score_completions(batch(one))
    if dead and "trainer" not in changes:
        assert inputs["advantages"][:8].any(), "what rounding leaves"
    inputs["completion_ids"] = torch.randint(10, 40, (16, 9))  # no two alike
    inputs["completion_mask"] = torch.ones(16, 9, dtype=torch.long)
    inputs["ref_per_token_logps"] = torch.full((16, 9), -6.0)  # read where there is a KL penalty
    rows = []

    def counted(_, __, given) -> None:
        if given["past_key_values"].get_seq_length():  # a completion, not the prompts before it
            rows.extend([torch.is_grad_enabled()] * len(given["input_ids"]))

    hook = one.model.get_base_model().model.register_forward_pre_hook(counted, with_kwargs=True)
    one._compute_loss(one.model, inputs).backward()
    slopes = {name: p.grad.clone() for name, p in one.model.named_parameters() if p.requires_grad}
    assert len(rows) == 16 and sum(rows) == with_gradients

    hook.remove()
    one.model.zero_grad()
    one.shares_scoring = False
    one._compute_loss(one.model, inputs).backward()
    noise = 0.1 if one.args.bf16 else 1e-4
    for name, slope in slopes.items():
        wanted = one.model.get_parameter(name).grad
        assert (slope - wanted).norm() <= noise * wanted.norm() + 1e-3, name  # what rounding moves
    (mine, trls) = one._metrics["train"]["entropy"]
    assert mine == pytest.approx(trls, rel=noise), "of all completions"


@EVERY
def test_training_is_trls_in_every_architecture(architecture, tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(small_grpo.project(tmp_path, rounds=0))
    params = small_grpo.params_with({})
    tokenizer = base.make_tokenizer(params)
    model = made(architecture, len(tokenizer))
    model.config.pad_token_id, model.config.eos_token_id = (
        tokenizer.pad_token_id, tokenizer.eos_token_id
    )  # fmt: skip
    learn(model, tokenizer, params, rounds=2)
    models.save_model(model, tokenizer, grpo.SFT)
    # TRL's loss counts a prompt's padding among the positions: here both prompts are as long
    (row, *_) = read_rows(grpo.ROWS)
    prompts = [tasks.prompt(f"How many is 1+{n}?", params.format) for n in (1, 2)]
    write_rows(grpo.ROWS, [{**row, "prompt": prompt} for prompt in prompts])
    shared, trls = both({"kl_coef": 0.1, "batch_size": 8}, monkeypatch)
    for a, b in zip(shared.curve, trls.curve, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3, abs=1e-5)
    assert apart(shared.weights, trls.weights) < 1e-4


# --- sampling -------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same(inside):
    def completions() -> torch.Tensor:
        torch.manual_seed(3)
        one = trainer()
        return one._generate_and_score_completions(batch(one))["completion_ids"]

    assert torch.equal(completions(), completions())


# --- the merged copy ------------------------------------------------------------------------------


def shifted(changes: dict):
    one = trainer(changes)
    torch.manual_seed(0)
    for weight in one.model.parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn_like(weight)
    return one.model


IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_is_merged_while_sampling_and_leaves_no_trace(inside, dtype):
    model = shifted({})
    for weight in model.parameters():
        if not weight.requires_grad:
            weight.data = weight.data.to(dtype)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        apart_from = model(IDS).logits
    with merged(model) as alone, torch.no_grad():
        assert all(weight.dtype == torch.float32 for weight in alone.parameters())
        bound = 1e-4 if dtype == torch.float32 else 0.3
        torch.testing.assert_close(alone(IDS).logits, apart_from.float(), atol=bound, rtol=bound)
        assert not torch.equal(alone(IDS).logits, apart_from)
    after = model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert all(after[name].dtype == weight.dtype for name, weight in before.items())
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        assert torch.equal(model(IDS).logits, apart_from)


@pytest.mark.parametrize("lora", [{"use_dora": True}, {"target_modules": ["embed_tokens"]}],
                         ids=["DoRA", "tied embeddings"])  # fmt: skip
def test_an_adapter_that_is_no_plain_sum_stays_beside(inside, lora):
    model = shifted({"lora": {**lora, "r": 4, "lora_alpha": 8}})
    with torch.no_grad():
        apart_from = model(IDS).logits
        with merged(model) as same:
            assert same is model and torch.equal(same(IDS).logits, apart_from)


# --- where it does not apply ----------------------------------------------------------------------

LEFT = {
    "dropout": ({"lora": {"r": 4, "lora_dropout": 0.1, "target_modules": "all-linear"}},
                ("sampling", "the loss")),
    "activation_checkpointing": ({"trainer": {"activation_checkpointing": True}}, ("the loss",)),
    "generation_kwargs": ({"trainer": {"generation_kwargs": {"no_repeat_ngram_size": 3}}},
                          ("sampling",)),
}  # fmt: skip


@pytest.mark.parametrize("why", LEFT)
def test_what_is_left_to_trl_is_said_and_trains(inside, why, caplog):
    changes, parts = LEFT[why]
    caplog.set_level("INFO", "stages")
    one = trainer(changes)
    said = [r.getMessage() for r in caplog.records if "is not shared" in r.getMessage()]
    assert len(said) == len(parts)
    for part, line in zip(parts, said, strict=True):
        assert f"in {part}, as there is {why}" in line
    assert one.shares_sampling == ("sampling" not in parts)
    assert one.shares_scoring == ("the loss" not in parts)
    with nullcontext() if one.shares_sampling else pytest.raises(AssertionError):
        assert calls_of_sampled(one) == 1


def calls_of_sampled(one) -> int:
    """How often its next batch is sampled here rather than by TRL."""
    calls, own = [], shared_prompt.sampled

    def counted(*arguments):
        calls.append(1)
        return own(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_prompt, "sampled", counted)
        one._generate_and_score_completions(batch(one))
    return len(calls)


def test_attention_over_a_window_is_left_to_trl(inside):
    one = trainer()
    assert obstacles(one) == {"sampling": None, "the loss": None}
    one.model.config.layer_types = ["sliding_attention"]
    one.model.config.sliding_window = 4
    assert set(obstacles(one).values()) == {"attention over a window, or none"}


def test_it_can_be_switched_off(inside):
    one = trainer({"shared_prompt": False})
    assert not one.shares_sampling and not one.shares_scoring and not calls_of_sampled(one)
