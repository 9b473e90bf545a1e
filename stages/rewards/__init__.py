"""Reward functions: plain functions in TRL's protocol, found by name, weighted by params.yaml.

A reward takes lists (`completions`, `prompts` and the columns of the data set, among them `gold`
and `question`) as keyword arguments, the format as `fmt`, its own options, and returns one number
a sample, or None for a sample it says nothing about. Your own: `function: package.module:name`.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import yaml

from stages.answers.format import Format
from stages.core.errors import UserError
from stages.core.params import Reward
from stages.rewards.correctness import correctness
from stages.rewards.format import format

OWN = {"correctness": correctness, "format": format}


def load(rewards: dict[str, Reward], fmt: Format) -> tuple[list[Callable], list[float]]:
    """The configured functions, each under its name in params.yaml, and their weights.

    Raises:
        UserError: no such reward or function, an option it does not take, or a custom function's
            file that DVC does not watch.
    """
    functions = [bind(name, find(name, spec), spec, fmt) for name, spec in rewards.items()]
    return functions, [spec.weight for spec in rewards.values()]


def find(name: str, spec: Reward) -> Callable:
    if spec.function is not None:
        return custom(name, spec.function)
    if name not in OWN:
        raise UserError(
            f"grpo.rewards.{name}: no such reward (there are {', '.join(OWN)}); for your own add "
            f"`function: package.module:name`"
        )
    return OWN[name]


def custom(name: str, path: str) -> Callable:
    """A user's function, if the file it lives in is a dependency of the grpo stage."""
    module, _, attribute = path.partition(":")
    where = f"grpo.rewards.{name}.function"
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if not attribute or spec is None or spec.origin is None:
        raise UserError(f"{where}: {path!r} names no function (package.module:name)")
    require_watched(Path(spec.origin), where)
    function = getattr(import_module(module), attribute, None)
    if not callable(function):
        raise UserError(f"{where}: {module} has no function {attribute!r}")
    return function


def require_watched(file: Path, where: str) -> None:
    """An edited reward must rerun grpo, so that its file must be among the stage's dependencies."""
    here = Path.cwd()
    if not file.is_relative_to(here):
        return  # an installed package: its version is pinned, not watched
    relative = file.relative_to(here).as_posix()
    deps = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]["grpo"]["deps"]
    if relative not in deps:
        raise UserError(
            f"{where}: DVC does not watch {relative}, so that an edit would rerun nothing; "
            f"add the line `- {relative}` to stages.grpo.deps in dvc.yaml"
        )


def bind(name: str, function: Callable, spec: Reward, fmt: Format) -> Callable:
    """The function with its format and options filled in, named as in params.yaml.

    TRL files its metrics under `__name__`: two functions of one name would collide.
    """
    signature = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.values())
    for option in spec.options:
        if option not in signature:
            known = ", ".join(n for n, p in signature.items() if p.default is not p.empty)
            raise UserError(
                f"grpo.rewards.{name}.options.{option}: not an option of this reward"
                f" (it takes {known or 'none'})"
            )
    fixed = {"fmt": fmt} if "fmt" in signature or takes_any else {}

    def reward(**columns) -> list[float | None]:
        return function(**columns, **fixed, **spec.options)

    reward.__name__ = name
    return reward
