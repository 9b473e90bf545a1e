"""Muon on the hidden matrices, AdamW on the rest, as one optimizer.

Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/) orthogonalises the momentum of
matrices; embeddings, norms and biases stay with AdamW. With `match_rms_adamw` (Moonshot 2025,
https://arxiv.org/abs/2502.16982) one learning rate serves both.
"""

from typing import Any

import torch


class MuonAdamW(torch.optim.Optimizer):
    """Steps both optimizers; their parameter groups are shared, so that a scheduler sees all."""

    def __init__(self, model: torch.nn.Module, lr: float):
        hidden, rest = parted(model)
        self.parts = [
            torch.optim.Muon(hidden, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
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
