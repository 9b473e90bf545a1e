"""pydantic's errors about params.yaml as one sentence: what, where, the remedy."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

# What a user may also call a parameter (TRL's names, the field's), and what it is called here.
POINTERS = {
    "num_generations": "group_size", "num_return_sequences": "group_size", "beta": "kl_coef",
    "epsilon": "clip_epsilon", "max_new_tokens": "max_completion_length",
    "per_device_train_batch_size": "batch_size", "lora_r": "lora.r",
    "lora_alpha": "lora.lora_alpha", "lora_dropout": "lora.lora_dropout",
    "target_modules": "lora.target_modules",
    "format_reward_weight": "rewards.format.weight", "model_name": "base.source",
    "correct_reward_weight": "rewards.correctness.weight", "max_seq_length": "max_length",
    "max_examples": "task.pool", "max_samples": "evaluate.num_samples",
    "max_prompt_length": "task.max_prompt_length",
}  # fmt: skip

# pydantic's type of an error -> what is asked for; {names} are of its context
ASKED = {
    "int_parsing": "a whole number", "int_type": "a whole number",
    "int_from_float": "a whole number", "float_parsing": "a number", "float_type": "a number",
    "finite_number": "a finite number", "greater_than_equal": "{ge} or more",
    "greater_than": "over {gt}", "less_than_equal": "{le} or less", "less_than": "below {lt}",
    "bool_parsing": "true or false", "bool_type": "true or false",
    "string_type": "a text, in quotes", "list_type": "a list, in brackets",
    "tuple_type": "two numbers, [low, high]", "model_type": "a section with keys below it",
    "dict_type": "a section with keys below it", "literal_error": "{expected}",
}  # fmt: skip
TOO_FEW = ("too_short", "too_long", "missing_tuple_item")
# pydantic's names for the parts of a union, the key of a map and the like: no keys of a user's
INNER = re.compile(r"^(function-|constrained-|literal\[|list\[|\[key\]$)")


def explain(errors: list[dict], model: type[BaseModel]) -> str:
    """The first error in one sentence, with the nearest right name for a wrong one.

    Args:
        errors: of pydantic.
        model: that of the whole file.
    """
    by_path: dict[str, list[dict]] = {}
    for error in errors:
        by_path.setdefault(".".join(map(str, places(error, model))), []).append(error)
    path, found = next(iter(by_path.items()))
    more = f" (and {len(by_path) - 1} more)" if len(by_path) > 1 else ""
    return said(path, found, model) + more


def places(error: dict, model: type[BaseModel]) -> list:
    """The keys that lead to the error, without the parts that only pydantic has."""
    kept, at = [], model
    for part in error["loc"]:
        if part in getattr(at, "model_fields", {}) or not INNER.match(str(part)):
            kept.append(part)
            at = section_at(kept, model)
    return kept


def said(path: str, errors: list[dict], model: type[BaseModel]) -> str:
    """What is wrong at one place; the parts of a union have an error each."""
    error = errors[0]
    kind, given = error["type"], error["input"]
    if kind == "extra_forbidden":
        return f"{path} is not a key here{hint(error['loc'], model)}"
    if kind == "missing":
        return f"{path} is missing: add it, as the files in presets/ have it"
    if kind == "invalid_key":
        return f"{path}: a key is a text: put {given} in quotes, or take it out"
    if kind in TOO_FEW:
        few = (
            "two numbers, [low, high]" if isinstance(given, list | tuple) else "at least one entry"
        )
        return f"{path} must have {few} (given: {given!r})"
    if kind == "value_error":
        message = error["msg"].removeprefix("Value error, ")
        return f"{path}: {message}" if path else message
    asked = " or ".join(dict.fromkeys(filter(None, map(wanted, errors)))) or error["msg"].lower()
    name = "the name" if "[key]" in error["loc"] else ""
    return f"{path}{':' if name else ''} {name}{' ' if name else ''}must be {asked} " + (
        f"(given: {given!r}){nearest(given, errors)}"
    )


def wanted(error: dict) -> str:
    bounds = {name: int(value) if isinstance(value, float) and value.is_integer() else value
              for name, value in error.get("ctx", {}).items()}  # fmt: skip
    asked = ASKED.get(error["type"], "").format(**bounds)
    return asked.replace(" or 'auto'", " or auto").replace("'", "")


def nearest(given: Any, errors: list[dict]) -> str:
    """The nearest of the values that would do, where values are listed."""
    listed = [error["ctx"]["expected"] for error in errors if error["type"] == "literal_error"]
    known = re.findall(r"'([^']*)'", " ".join(listed))
    near = difflib.get_close_matches(str(given), known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def hint(location: Sequence, model: type[BaseModel]) -> str:
    """Where a wrong key's meaning lives, or the nearest right name beside it."""
    *parents, key = location
    if pointer := POINTERS.get(key):
        own = f"{parents[0]}." if parents and "." not in pointer else ""
        if pointer.startswith(("lora.", "rewards.")) and parents:
            own = f"{parents[0]}."
        return f": say {own}{pointer}"
    known = list(section_at(parents, model).model_fields)
    near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {'.'.join([*map(str, parents), near[0]])}?"
    return f": take it out (there are {', '.join(known)})" if known else ": take it out"


def section_at(parents: Sequence, model: type[BaseModel]) -> type[BaseModel]:
    """The section at a path of params.yaml; a map's own names lead on to its sections."""
    for name in parents:
        if name in model.model_fields:
            inner = sections_in(model.model_fields[name].annotation)
            model = inner[0] if inner else BaseModel
    return model


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    return [a for a in (annotation, *getattr(annotation, "__args__", ())) if is_section(a)]


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
