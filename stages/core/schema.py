"""The options of TRL's and peft's own config classes, as the schema of `trainer:` and `lora:`.

Importing those classes takes seconds, so that what they accept is read once for each set of
installed versions and kept in a small file; a stage that needs no trainer never imports one.
`python -m stages.core.schema` makes the file.
"""

import dataclasses
import difflib
import enum
import json
import logging
import types
import typing
from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import Any

from stages.core.files import cache_dir, write_text
from stages.core.libraries import uncollected

OWNERS = ("trl.SFTConfig", "trl.GRPOConfig", "trl.DistillationConfig", "peft.LoraConfig")
PLAIN = {bool: "bool", int: "int", float: "float", str: "str", list: "list", dict: "dict",
         set: "list", types.NoneType: "null"}  # fmt: skip
CHOICE = "="  # before each value of an enumeration


class WrongOption(ValueError):
    """An option that the installed class does not have, or a value of the wrong type."""


def check(owner: str, given: dict[str, Any]) -> dict[str, Any]:
    """The given options with numbers that YAML read as text (`1e-5`) made numbers.

    Args:
        owner: the class, e.g. `trl.GRPOConfig`.
        given: option -> value as YAML gave it.

    Raises:
        WrongOption: the message starts with the option's name.
    """
    if not given:
        return {}
    fields = accepted()[owner]
    for name in given:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ": take it out"
            package = owner.partition(".")[0]
            raise WrongOption(
                f"{name} is not an option of {owner} ({package} {version(package)}){hint}"
            )
    return {name: typed(owner, name, value, fields[name]) for name, value in given.items()}


def typed(owner: str, name: str, value: Any, kinds: list[str]) -> Any:
    kind = PLAIN.get(type(value), "any")
    if choices := [kind[1:] for kind in kinds if kind.startswith(CHOICE)]:
        if value in choices:
            return value
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {near[0]}?" if near else f" (there are {', '.join(choices)})"
        raise WrongOption(f"{name}: {value!r} is no {name} of {owner}{hint}")
    if "any" in kinds or kind in kinds or (kind == "int" and "float" in kinds):
        return value
    if kind == "str" and {"int", "float"} & set(kinds):
        try:
            return float(value) if "float" in kinds else int(value)
        except ValueError:
            pass
    raise WrongOption(f"{name}: {owner} takes {' or '.join(kinds)} (given: {value!r})")


@cache
def accepted() -> dict[str, dict[str, list[str]]]:
    """Class -> option -> the kinds of value it takes, for the installed versions."""
    versions = "-".join(f"{p}-{version(p)}" for p in ("trl", "transformers", "peft"))
    path = cache_dir("schema") / f"options-{versions}-of-{len(OWNERS)}.json"
    if not path.exists():
        # imported by peft, it warns of an optional package, whoever asks
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        with uncollected():
            options = {owner: read_from_class(owner) for owner in OWNERS}
        write_text(path, json.dumps(options))
    return json.loads(path.read_text())


def read_from_class(owner: str) -> dict[str, list[str]]:
    module, _, name = owner.rpartition(".")
    cls = getattr(import_module(module), name)
    hints = typing.get_type_hints(cls)
    return {f.name: kinds_of(hints[f.name]) for f in dataclasses.fields(cls) if f.init}


def kinds_of(hint: Any) -> list[str]:
    """`float | list[str] | None` -> ["float", "list", "null"]; what is not plain data -> "any".

    Of an enumeration, its values: `SchedulerType | str` -> ["=constant", "=cosine", ..., "str"].
    """
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return sorted({kind for part in typing.get_args(hint) for kind in kinds_of(part)})
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return [f"{CHOICE}{member.value}" for member in hint]
    return [PLAIN.get(typing.get_origin(hint) or hint, "any")]


if __name__ == "__main__":
    accepted()
