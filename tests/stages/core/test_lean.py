import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl.kernels import ChunkedLogProbFunction, chunked_logprob

from stages.core import lean
from tests.architectures import EVERY, made


@pytest.fixture(autouse=True)
def as_before():
    """What a test changes of TRL is changed for it alone."""
    before = [getattr(module, name) for module, name in lean.CHANGED]
    yield
    lean.change(*before)


def scores(seed: int, tokens: int, vocabulary: int, tile: int, ties: bool, **how) -> list:
    """Outputs of TRL's head, then the gradients of a sum of them that weighs each by chance."""
    chance = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(n, 8, generator=chance) for n in (tokens, vocabulary))
    if ties:
        hidden, weight = hidden.round(), weight.round()
    hidden.requires_grad_(), weight.requires_grad_()
    bias = torch.randn(vocabulary, generator=chance).round().requires_grad_()
    targets = torch.randint(vocabulary, (tokens,), generator=chance)
    learned = how.pop("learned")
    outputs = ChunkedLogProbFunction.apply(
        hidden, weight, bias, targets, how.get("temperature", 1.0), tile, how.get("softcap"),
        how.get("scale", 1.0), how["outputs"],
    )  # fmt: skip
    chosen = [torch.randn(tokens, generator=chance) for _ in learned]
    sum((outputs[i] * c).sum() for i, c in zip(learned, chosen, strict=True)).backward()
    return [*outputs, hidden.grad, weight.grad, bias.grad]


def require_equal(ours: list, theirs: list) -> None:
    for a, b in zip(ours, theirs, strict=True):
        if b is None or b.dtype == torch.bool:
            assert a is b if b is None else torch.equal(a, b)
        else:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5)


@given(
    seed=st.integers(0, 99),
    tokens=st.integers(1, 12),
    vocabulary=st.integers(2, 30),
    tile=st.integers(1, 32),
    ties=st.booleans(),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    scale=st.sampled_from([0.25, 1.0]),
    outputs=st.sampled_from([(), ("entropy",), ("is_top1",), ("entropy", "is_top1")]),
    bonus=st.booleans(),
)
def test_the_head_is_trls(outputs, bonus, **drawn):
    drawn |= {"outputs": outputs, "learned": [0, 1] if bonus and "entropy" in outputs else [0]}
    theirs = scores(**drawn)
    lean.change(*lean.TRLS[:2], lean.forward_tile, lean.backward_tile)
    ours = scores(**drawn)
    lean.change(*lean.TRLS)
    require_equal(ours, theirs)


@pytest.mark.parametrize(
    "how",
    [
        {"outputs": ("entropy",), "learned": [0, 1], "softcap": 5.0},
        {"outputs": ("log_sum_sq_probs", "mean_logits"), "learned": [0]},
        {"outputs": ("entropy",), "learned": [1]},
    ],
)
def test_what_is_not_asked_for_here_is_left_to_trl(how):
    drawn = {"seed": 0, "tokens": 5, "vocabulary": 9, "tile": 4, "ties": False}
    theirs = scores(**drawn, **how)
    lean.change(*lean.TRLS[:2], lean.forward_tile, lean.backward_tile)
    require_equal(scores(**drawn, **how), theirs)


def test_large_logits_lose_no_entropy():
    logits = torch.tensor([[3e4, 3e4 - 1.0, 3e4 - 2.0]])
    hidden, weight = torch.ones(1, 1), logits.T.contiguous()
    lean.change(*lean.TRLS[:2], lean.forward_tile, lean.backward_tile)
    _, entropy, *_ = ChunkedLogProbFunction.apply(
        hidden, weight, None, torch.tensor([0]), 1.0, 3, None, 1.0, ("entropy",)
    )
    exact = torch.distributions.Categorical(logits=logits.double()).entropy().item()
    assert math.isclose(entropy.item(), exact, abs_tol=5e-3)  # a float32 near 3e4 has steps of 2e-3


def test_the_norms_gradient_is_that_of_its_formula():
    x, weight = torch.randn(3, 4, 6).double(), torch.rand(6).double()
    x.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: lean.RmsNorm.apply(x, w, 1e-3), (x, weight))
    weight.requires_grad_(False)  # below an adapter
    assert torch.autograd.gradcheck(lambda x: lean.RmsNorm.apply(x, weight, 1e-3), (x,))


def step(model: torch.nn.Module, autocast: bool) -> tuple:
    ids = torch.arange(24).reshape(2, 12)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss, [weight.grad for weight in model.parameters()]


@EVERY
@pytest.mark.parametrize("autocast", [False, True])
def test_a_models_loss_is_its_own_and_so_are_its_gradients(architecture, autocast):
    plain = made(architecture)
    lean.passes(few := copy.deepcopy(plain))
    changed = [m for m in few.modules() if "forward" in vars(m)]
    assert len(changed) == (0 if architecture == "gpt2" else 5), "two a layer, one at the end"
    (loss, gradients), (theirs, plain_gradients) = step(few, autocast), step(plain, autocast)
    assert torch.equal(loss, theirs)
    torch.testing.assert_close(gradients, plain_gradients, rtol=1e-4, atol=1e-6)


def test_a_norm_of_another_formula_is_left_alone():
    from transformers import GemmaConfig, GemmaForCausalLM

    model = GemmaForCausalLM(GemmaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16,
    ))  # fmt: skip
    norm = model.model.norm
    norm.variance_epsilon = norm.eps  # even where it is named alike: it multiplies by 1 + weight
    lean.passes(model)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_copy_of_a_norm_has_weights_of_its_own():
    lean.passes(model := made("llama"))
    other = copy.deepcopy(model.model.norm)
    with torch.no_grad():
        other.weight.zero_()
    assert other(torch.ones(1, 32, requires_grad=True)).abs().max() == 0


def test_a_norm_in_half_precision_is_its_own():
    lean.passes(model := made("llama"))
    norm, x = model.model.norm, torch.randn(2, 32, dtype=torch.bfloat16, requires_grad=True)
    assert torch.equal(norm(x), type(norm).forward(norm, x))


def test_a_tile_is_as_wide_as_the_vocabulary_and_trls_own_way_can_be_had():
    lean.passes(made("llama", size=40))
    assert lean.utils._CHUNKED_LOGPROB_CHUNK_SIZE == 40
    with lean.as_trl_does():
        assert lean.utils._CHUNKED_LOGPROB_CHUNK_SIZE == lean.CHUNK > 30_000
        assert chunked_logprob._forward_tile is lean.FORWARD is not lean.forward_tile
    assert chunked_logprob._forward_tile is lean.forward_tile
