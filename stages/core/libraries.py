"""Heavy libraries, loaded without what loading them costs for nothing.

Python's collector looks for garbage again and again while they load, finds none, and takes a fifth
of the time; at the end of the process it would go through all that they made, for a second more.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.core.params import Params, Reward

# Options of peft.LoraConfig that have nothing to do with how the weights are stored.
OF_ANY_WEIGHTS = {"r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora",
                  "modules_to_save", "task_type"}  # fmt: skip


def load(*names: str) -> None:
    """Imports modules by their names; what imports them later finds them there."""
    with uncollected():
        for name in names:
            import_module(name)


@contextmanager
def uncollected() -> Iterator[None]:
    """Holds the collector back; what came to be in the block, it passes over for good."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def leave_out(params: "Params") -> None:
    """Makes bitsandbytes an absent package where nothing can need it.

    peft imports it wherever it is installed, and puts up with its absence.
    """
    if not may_need_bitsandbytes(params):
        leave_out_bitsandbytes()


def leave_out_bitsandbytes() -> None:
    sys.modules.setdefault("bitsandbytes", None)


def bitsandbytes_is_left_out() -> bool:
    return sys.modules.get("bitsandbytes", sys) is None


def may_need_bitsandbytes(params: "Params") -> bool:
    """Whether any weights may be in 8 or 4 bits, or an optimiser's state; no is certain.

    A model from elsewhere may be stored so, and what a user's own reward loads nobody knows.
    """
    sft, grpo, distill = params.sft, params.grpo, params.distill
    made_here = params.base.source == "scratch" and distill.student.source in ("scratch", "layers")
    plain = made_here and sft.method != "qlora" and grpo.quantize == "none"
    usual = not any("optim" in section.trainer for section in (sft, grpo, distill))
    usual &= set(sft.lora) | set(grpo.lora or {}) <= OF_ANY_WEIGHTS
    of_ours = not any(map(has_function, {**grpo.rewards, **params.evaluate.rewards}.values()))
    return not (plain and usual and of_ours and params.launch.accelerate is None)


def has_function(reward: "Reward") -> bool:
    return reward.function is not None or any(map(has_function, reward.of.values()))
