"""Muon on the hidden matrices, AdamW on the rest, as one optimizer.

Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/) orthogonalises the momentum of
matrices; embeddings, norms and biases stay with AdamW. With `match_rms_adamw` (Moonshot 2025,
https://arxiv.org/abs/2502.16982) one learning rate serves both.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch

TOGETHER = 2**22  # elements orthogonalised at once; of larger matrices a stack gains nothing


class Muon(torch.optim.Muon):
    """torch's, with `match_rms_adamw`, its matrices of one shape orthogonalised together.

    torch takes them one by one, which for small ones is mostly the calls' own time.
    """

    def __init__(self, matrices: list[torch.nn.Parameter], lr: float):
        super().__init__(matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            matrices, gradients, momenta = [], [], []
            self._init_group(group, matrices, gradients, momenta)
            if not matrices:
                continue
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov's
            for part in stacks(ahead):
                updates = orthogonal(torch.stack([ahead[i] for i in part]), group)
                for i, update in zip(part, updates, strict=True):
                    rate = group["lr"] * (0.2 * math.sqrt(max(update.shape)))
                    matrices[i].add_(update, alpha=-rate)


def stacks(matrices: list[torch.Tensor]) -> Iterator[list[int]]:
    """Places of matrices of one shape, so many at a time as `TOGETHER` lets."""
    alike = defaultdict(list)
    for i, matrix in enumerate(matrices):
        alike[matrix.shape].append(i)
    for shape, places in alike.items():
        count = max(1, TOGETHER // shape.numel())
        yield from (places[at : at + count] for at in range(0, len(places), count))


def orthogonal(stack: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
    """Each matrix of (count, rows, columns), its singular values near 1, in bf16: Newton-Schulz."""
    a, b, c = group["ns_coefficients"]
    tall = stack.shape[1] > stack.shape[2]
    x = (stack.mT if tall else stack).bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class MuonAdamW(torch.optim.Optimizer):
    """Steps both optimizers; their parameter groups are shared, so that a scheduler sees all."""

    def __init__(self, model: torch.nn.Module, lr: float):
        hidden, rest = parted(model)
        self.parts = [
            Muon(hidden, lr),
            torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        super().__init__([{"params": hidden}, {"params": rest}], {"lr": lr})
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Any = None) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict) -> None:
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def parted(model: torch.nn.Module) -> tuple[list, list]:
    """The trainable matrices inside the decoder layers, and everything else that is trainable."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding)
                  for p in m.parameters()}  # fmt: skip
    hidden, rest = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim == 2 and id(parameter) not in embeddings
            (hidden if matrix else rest).append(parameter)
    return hidden, rest
