import copy

import pytest
import torch

from stages.core import optim
from stages.core.optim import Muon, MuonAdamW, parted


def model() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2,
                                        num_attention_heads=2, intermediate_size=32,
                                        tie_word_embeddings=True))  # fmt: skip


def steps(net: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    ids = torch.arange(16).reshape(2, 8)
    for _ in range(count):
        optimizer.zero_grad()
        net(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        schedule.step()


def test_matrices_go_to_muon_and_the_embedding_does_not():
    net = model()
    hidden, rest = parted(net)
    assert len(hidden) == 2 * 7 and all(p.ndim == 2 for p in hidden)
    assert any(p is net.model.embed_tokens.weight for p in rest)
    assert len(hidden) + len(rest) == len(list(net.parameters()))


def test_it_learns_and_the_schedule_reaches_both_parts():
    net = model()
    optimizer = MuonAdamW(net, lr=1e-2)
    ids = torch.arange(16).reshape(2, 8)
    before = net(input_ids=ids, labels=ids).loss.item()
    steps(net, optimizer, 10)
    assert net(input_ids=ids, labels=ids).loss.item() < 0.9 * before
    rates = {group["lr"] for part in optimizer.parts for group in part.param_groups}
    assert rates == {1e-2 / 11}


def test_a_saved_state_goes_on_exactly():
    net = model()
    optimizer = MuonAdamW(net, lr=1e-2)
    steps(net, optimizer, 3)
    other = copy.deepcopy(net)
    resumed = MuonAdamW(other, lr=1e-2)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for n, o in ((net, optimizer), (other, resumed)):
        for group in o.param_groups:
            group["lr"] = group["initial_lr"] = 1e-2
        steps(n, o, 3)
    pairs = zip(net.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def matrices(seed: int) -> list[torch.nn.Parameter]:
    torch.manual_seed(seed)
    shapes = [(16, 16), (48, 16), (16, 48), (16, 16), (48, 16), (16, 16)]
    return [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]


@pytest.mark.parametrize("together", [1, 600, optim.TOGETHER])
def test_matrices_together_become_what_they_become_one_by_one(monkeypatch, together):
    monkeypatch.setattr(optim, "TOGETHER", together)
    ours, theirs = matrices(0), matrices(0)
    own = Muon(ours, 1e-2)
    torchs = torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        for parameters, optimizer in ((ours, own), (theirs, torchs)):
            for i, (parameter, gradient) in enumerate(
                zip(parameters, matrices(step + 1), strict=True)
            ):
                parameter.grad = None if i == step else gradient.detach()
            optimizer.step()
    moved = (a - b for a, b in zip(theirs, matrices(0), strict=True))
    size = max(change.abs().max() for change in moved)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=size.item() * 2**-8)  # bf16's rounding
    pairs = zip(
        own.state_dict()["state"].values(), torchs.state_dict()["state"].values(), strict=True
    )
    assert all(torch.equal(a["momentum_buffer"], b["momentum_buffer"]) for a, b in pairs)
