"""What TRL and transformers do in many passes over memory on a CPU, done in few.

Both have fused kernels for GPUs; on a CPU each of their operations is a pass of its own, and for
small models the passes cost as much as the matrix products do (benchmarks/README.md).

- The head: TRL puts logits into tiles 32,768 wide, whatever the vocabulary, so that each row of a
  smaller one begins on a page of its own. Here a tile is as wide as the vocabulary, and is folded
  in half as many passes.
- RMSNorm's gradient: by its formula, in a third of the time that autograd takes, operation by
  operation.

The mathematics is the same; sums are taken in another order.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from trl.kernels import chunked_logprob
from trl.trainer import utils

from stages.core.models import device

CHANGED = [
    (utils, "_use_triton"), (utils, "_CHUNKED_LOGPROB_CHUNK_SIZE"),
    (chunked_logprob, "_forward_tile"), (chunked_logprob, "_backward_tile"),
]  # fmt: skip
TRLS = [getattr(module, name) for module, name in CHANGED]
USE_TRITON, CHUNK, FORWARD, BACKWARD = TRLS


def passes(model: torch.nn.Module) -> None:
    """Few, from here on: of TRL's head in this process, and of the model's norms; on a CPU."""
    if device() != "cpu":
        return
    vocabulary = model.get_output_embeddings().weight.shape[0]
    change(scored_alone, min(CHUNK, vocabulary), forward_tile, backward_tile)
    for module in model.modules():
        if is_plain(module):
            module.forward = MethodType(normed, module)


@contextmanager
def as_trl_does() -> Iterator[None]:
    """TRL's own head in the block, to measure beside."""
    ours = [getattr(module, name) for module, name in CHANGED]
    change(*TRLS)
    try:
        yield
    finally:
        change(*ours)


def change(*values: Any) -> None:
    for (module, name), value in zip(CHANGED, values, strict=True):
        setattr(module, name, value)


# --- the head -------------------------------------------------------------------------------------


def scored_alone(device: torch.device) -> bool:
    """Whether the head takes labelled positions alone: on a CPU, too.

    TRL takes all of them where there is no Triton, to keep the shapes constant for compilers that a
    CPU does not have (trl.trainer.utils.add_fused_lm_head).
    """
    return device.type in ("cpu", "cuda", "xpu")


def forward_tile(
    tile: torch.Tensor, stride: int, targets: torch.Tensor, running_max: torch.Tensor,
    sum_exp: torch.Tensor, x_sum_exp: torch.Tensor, sq_sum_exp: torch.Tensor, z_sum: torch.Tensor,
    max_before_target: torch.Tensor, target_logit: torch.Tensor, start: int, width: int,
    **how: Any,
) -> None:  # fmt: skip
    """TRL's `_forward_tile`: some of the vocabulary's logits into each token's running statistics.

    Args:
        tile: logits before any scale, (tokens, width); overwritten.
        targets: of all the vocabulary, (tokens,), as are the statistics.
        start: the tile's first token in the vocabulary.
        how: TRL's flags. What this project does not ask for is left to TRL.
    """
    if how["HAS_SOFTCAP"] or how["HAS_LOG_SUM_SQ_PROBS"] or how["HAS_MEAN_LOGITS"]:
        return FORWARD(tile, stride, targets, running_max, sum_exp, x_sum_exp, sq_sum_exp, z_sum,
                       max_before_target, target_logit, start, width, **how)  # fmt: skip
    logits = scaled(tile, how)
    local = targets - start
    here, place = within(local, width)
    target_logit.copy_(torch.where(here, logits.gather(1, place)[:, 0], target_logit))
    if how["HAS_IS_TOP1"]:
        top, at = logits.max(1)  # the first of equal ones
        before = torch.where(at < local, top, -math.inf)
        torch.maximum(max_before_target, before, out=max_before_target)
    else:
        top = logits.amax(1)
    highest = torch.maximum(running_max, top)
    rescale = (running_max - highest).exp_()
    running_max.copy_(highest)
    lower = logits.sub_(highest[:, None])
    if how["HAS_ENTROPY"]:
        weights = lower.exp()
        total = weights.sum(1)
        # sum(w x) = sum(w (x - m)) + m sum(w): less is lost than where x is large
        x_sum_exp.mul_(rescale).add_(lower.mul_(weights).sum(1)).addcmul_(total, highest)
    else:
        total = lower.exp_().sum(1)
    sum_exp.mul_(rescale).add_(total)


def backward_tile(
    tile: torch.Tensor, stride: int, targets: torch.Tensor, log_z: torch.Tensor,
    entropy: torch.Tensor, grad_logps: torch.Tensor, grad_entropy: torch.Tensor, start: int,
    width: int, **how: Any,
) -> None:  # fmt: skip
    """TRL's `_backward_tile`: logits, in place, to their gradients.

    For a logit x of probability p, g and h the gradients of log p(target) and of the entropy H:
    g [x is the target's] - p (g + h (log p + H)).
    """
    if how["HAS_SOFTCAP"] or not how["HAS_LOGPROB_GRAD"]:
        return BACKWARD(tile, stride, targets, log_z, entropy, grad_logps, grad_entropy, start,
                        width, **how)  # fmt: skip
    log_p = scaled(tile, how).sub_(log_z[:, None])
    p = log_p.exp()
    if how["HAS_ENTROPY_GRAD"]:
        factor = log_p.add_(entropy[:, None]).mul_(grad_entropy[:, None])
        grad = p.mul_(factor.add_(grad_logps[:, None])).neg_()
    else:
        grad = p.mul_(-grad_logps[:, None])
    here, place = within(targets - start, width)
    grad.scatter_add_(1, place, (grad_logps * here)[:, None])
    if (scale := how["logit_scale"] * how["inv_t"]) != 1:
        grad.mul_(scale)
    tile.copy_(grad)


def scaled(tile: torch.Tensor, how: dict[str, Any]) -> torch.Tensor:
    """Logits in float32; where the tile is that already, in its place."""
    logits = tile.float()
    scale = how["logit_scale"] * how["inv_t"]
    return logits if scale == 1 else logits.mul_(scale)


def within(local: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which targets a tile holds, (tokens,), and where, (tokens, 1); elsewhere any place."""
    return (local >= 0) & (local < width), local.clamp(0, width - 1)[:, None]


# --- the norms ------------------------------------------------------------------------------------


class RmsNorm(torch.autograd.Function):
    """x r w, where r = (mean x^2 + eps)^-1/2 (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        r = x.pow(2).mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        return (x * r).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        x, weight, r = ctx.saved_tensors
        unit = x * r
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * unit).flatten(0, -2).sum(0)
        grad = grad * weight
        along = (grad * unit).mean(-1, keepdim=True)
        return grad.addcmul_(unit, along, value=-1).mul_(r), grad_weight, None


def normed(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A norm's forward: its own where nothing is learned, or not in float32."""
    learns = torch.is_grad_enabled() and x.requires_grad
    if learns and x.dtype == self.weight.dtype == torch.float32:
        return RmsNorm.apply(x, self.weight, self.variance_epsilon)
    return type(self).forward(self, x)


def is_plain(module: torch.nn.Module) -> bool:
    """Whether a module is an RMSNorm as Llama has it: tried, as some models' differ."""
    weight = getattr(module, "weight", None)
    if weight is None or weight.ndim != 1 or not hasattr(module, "variance_epsilon"):
        return False
    x = torch.linspace(-2, 3, weight.numel(), dtype=weight.dtype, device=weight.device)[None]
    with torch.no_grad():
        return torch.equal(RmsNorm.apply(x, weight, module.variance_epsilon), module(x))
