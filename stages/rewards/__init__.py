"""Reward functions: plain functions in TRL's protocol, found by name, weighted by params.yaml.

A reward takes lists (`completions`, `prompts` and the columns of the data set, among them `gold`
and `question`) as keyword arguments, the format as `fmt`, its own options, and returns one number
a sample, or None for a sample that it cannot judge. Your own: `function: package.module:name`.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from traceback import extract_tb
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, ValidationError, create_model

from stages.answers.format import Format
from stages.core import modules
from stages.core.errors import UserError
from stages.core.explain import explain
from stages.core.grade import JUDGED_BY
from stages.core.graph import EVALUATING, require_dependency
from stages.core.params import Reward, no_boolean, unknown
from stages.rewards import code, cookbook, correctness, format, process, shaping
from stages.rewards.combine import clipped, combined, one
from stages.rewards.text import stand_in_ids

OWN = {
    function.__name__: function
    for function in (
        correctness.correctness,
        correctness.closeness,
        correctness.factual,
        correctness.choice,
        code.unit_tests,
        format.format,
        process.steps,
        process.equations_hold,
        process.step_structure,
        shaping.overlong,
        shaping.length_cosine,
        shaping.repetition,
        shaping.script,
        cookbook.match_format_exactly,
        cookbook.match_format_approximately,
        cookbook.check_answer_correctness,
        cookbook.check_numbers_extraction,
    )
}
TAGGED = ("match_format_exactly", "match_format_approximately", "check_answer_correctness",
          "check_numbers_extraction")  # fmt: skip
COLUMNS = ("prompts", "completions", "completion_ids", "question", "working", "fmt", *JUDGED_BY)


def load(
    rewards: dict[str, Reward], fmt: Format, section: str = "grpo"
) -> tuple[list[Callable], list[float]]:
    """The functions that a section of params.yaml names, each under its name, and their weights.

    Raises:
        UserError: no such reward or function, an option it does not take or of the wrong type, or a
            file of a custom function that DVC does not watch.
    """
    where = f"{section}.rewards"
    functions = [build(name, spec, fmt, where) for name, spec in rewards.items()]
    return functions, [spec.weight for spec in rewards.values()]


def build(path: str, spec: Reward, fmt: Format, where: str = "grpo.rewards") -> Callable:
    """One reward, with all that is nested in it.

    TRL files its metrics under `__name__`: the names of params.yaml are unique, functions' are not.

    Args:
        path: of its key below the section's `rewards`, e.g. `mixed.of.exact`.
        spec: what stands there.
        fmt: the format.
        where: what stands before the path in messages: `grpo.rewards`.
    """
    if spec.combine:
        parts = [build(f"{path}.of.{name}", part, fmt, where) for name, part in spec.of.items()]
        function = combined(spec.combine, parts, [part.weight for part in spec.of.values()])
    else:
        key = f"{where}.{path}"
        function = bind(key, find(key, spec, fmt), spec, fmt)
    reward = clipped(function, spec.scale, spec.clip)
    reward.__name__ = path
    return reward


def judge(
    functions: list[Callable],
    rows: list[dict],
    completions: list[str],
    completion_ids: list[list[int]] | None = None,
) -> list[list[float | None]]:
    """Each completion's score by each function, as a trainer would have them scored.

    Args:
        functions: as `load` gives them.
        rows: prepared rows, one per completion.
        completions: texts.
        completion_ids: their tokens; where there is no tokenizer, about as many stand in.
    """
    if not rows:
        return []
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    columns["prompts"] = columns.pop("prompt")
    columns["completions"] = [[{"role": "assistant", "content": text}] for text in completions]
    columns["completion_ids"] = completion_ids or [stand_in_ids(text) for text in completions]
    columns.setdefault("working", [None] * len(rows))
    scores = [function(**columns) for function in functions]
    return [list(sample) for sample in zip(*scores, strict=True)]


def total(scores: list[float | None], weights: list[float]) -> float | None:
    """The weighted sum of what could be judged, as the trainer takes it; None where nothing was."""
    return one("sum", scores, weights)


def find(key: str, spec: Reward, fmt: Format) -> Callable:
    """By the name in `function`, or by its key where that ends in the name of one of ours."""
    name = spec.function or key.rpartition(".")[2]
    if ":" in name or "." in name:
        return custom(key, name)
    if name not in OWN:
        raise UserError(f"{key}: {unknown(name)}")
    if name in TAGGED and len(fmt.tags) < 4:
        raise UserError(
            f"{key}: {name} counts four tags, `format` has {len(fmt.tags)}: give all "
            "four, or reward the format by `format`"
        )
    return OWN[name]


def custom(key: str, path: str) -> Callable:
    """A user's function, if its files are dependencies of the stages that call it."""
    module, _, attribute = path.partition(":")
    where = f"{key}.function"
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if not attribute or spec is None or spec.origin is None:
        raise UserError(
            f"{where}: {path!r} names no function: write package.module:name, of a file that is "
            "in the project's root or installed"
        )
    require_watched(module, Path(spec.origin), where)
    try:
        function = getattr(import_module(module), attribute, None)
    except (ImportError, SyntaxError, NameError) as error:
        raise UserError(f"{where}: {module} cannot be imported ({error}): mend it") from error
    if not callable(function):
        raise UserError(f"{where}: {module} has no function {attribute!r}: add it, or name another")
    return careful(function, where)


def careful(function: Callable, where: str) -> Callable:
    """A user's function, whose own mistakes are told as such."""

    @wraps(function)
    def checked(**columns) -> list[float | None]:
        try:
            scores = function(**columns)
        except UserError:
            raise
        except Exception as error:  # it is a user's code: anything may come of it
            frame = extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"{where} failed ({type(error).__name__}: {error}; {Path(frame.filename).name}, "
                f"line {frame.lineno}): mend it"
            ) from error
        count = len(columns["completions"])
        if not (
            isinstance(scores, Sequence)
            and len(scores) == count
            and all(score is None or isinstance(score, Real) for score in scores)
        ):
            raise UserError(
                f"{where} gave {repr(scores)[:60]}: a reward gives a list of numbers or None, one "
                f"for each of the {count} completions: mend it"
            )
        return scores

    return checked


WATCHERS = {"grpo": ("audit", "grpo"), "evaluate": EVALUATING}


def require_watched(module: str, file: Path, where: str) -> None:
    """An edited reward must rerun the stages that call it: they must have it as a dependency, and
    what it imports of the project.
    """
    here = Path.cwd()
    if not file.is_relative_to(here):
        return  # an installed package: its version is pinned, not watched
    stages = WATCHERS[where.partition(".")[0]]
    for needed in sorted(modules.of_user(module, file.relative_to(here).as_posix())):
        require_dependency(needed, stages, where)


def bind(key: str, function: Callable, spec: Reward, fmt: Format) -> Callable:
    """The function with its format and options filled in."""
    signature = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.values())
    own = [n for n, p in signature.items() if p.kind is not p.VAR_KEYWORD and n not in COLUMNS]
    where = f"{key}.options"
    for option in spec.options:
        if option not in own:
            raise UserError(
                f"{where}.{option}: not an option of this reward"
                f" (it takes {', '.join(own) or 'none'}): take it out"
            )
    ours = function in OWN.values()
    if missing := [n for n in own if signature[n].default is inspect.Parameter.empty
                   and n not in spec.options and ours]:  # fmt: skip
        raise UserError(
            f"{where}: this reward needs {' and '.join(missing)}: add them, as docs/rewards.md does"
        )
    options = typed(where, [signature[n] for n in own], spec.options) if ours else spec.options
    fixed = ({"fmt": fmt} if "fmt" in signature or takes_any else {}) | options

    def reward(**columns) -> list[float | None]:
        if ours:  # no column may pass for an option
            columns = {name: columns[name] for name in COLUMNS if name in columns}
        return function(**{**columns, **fixed})

    return reward


def typed(where: str, known: list[inspect.Parameter], options: dict[str, Any]) -> dict[str, Any]:
    """The options as the annotations of a reward's parameters have them: a pair for a list.

    Raises:
        UserError: one is of another type, or out of range; says what it must be.
    """
    kinds: dict[str, Any] = {
        p.name: p.annotation if p.annotation is bool
        else Annotated[p.annotation, BeforeValidator(no_boolean)]
        for p in known if p.name in options
    }  # fmt: skip
    model = create_model(
        "Options",
        __config__=ConfigDict(allow_inf_nan=False),
        **{name: (kind, ...) for name, kind in kinds.items()},
    )
    try:
        return model.model_validate(options).model_dump()
    except ValidationError as error:
        raise UserError(f"{where}.{explain(error.errors(), model)}") from None
