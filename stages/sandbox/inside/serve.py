"""The candidate's side: runs its code once, then answers calls to its functions."""

import builtins
import os
import sys
import types

from . import channel, values


def run_program(code: str) -> None:
    """A whole program: its stdin and stdout are the pipes themselves."""
    builtins.exit = builtins.quit = sys.exit  # programs use them; -S leaves out what sets them
    nowhere = os.open("/dev/null", os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    execute(code, "__main__")


def execute(code: str, name: str) -> dict:
    """The code's names, run as a module that dataclasses and the like find in sys.modules."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(code, f"<{name}>", "exec"), module.__dict__)
    return module.__dict__


def serve(order: dict, inlet: int, outlet: int) -> None:
    """First message: the callable names, or what the code raised. Then one answer per call."""
    try:
        names = execute(order["code"], "candidate")
        message = {"names": [name for name, value in names.items() if callable(value)]}
    except BaseException as error:
        channel.send(outlet, values.dump({"raised": describe(error)}))
        return
    channel.send(outlet, values.dump(message))
    while True:
        channel.send(outlet, answer(names, channel.receive(inlet)))


def answer(names: dict, request: bytes) -> bytes:
    """The result, with the arguments that the call changed in place; or the exception."""
    try:
        name, arguments, keywords = values.load(request)
        given = dict(enumerate(arguments)) | keywords
        before = {key: values.pack(item) for key, item in given.items() if mutable(item)}
        result = names[name](*arguments, **keywords)
    except BaseException as error:
        return values.dump({"raised": describe(error)})
    try:
        return values.dump({"value": result, "changed": changed(given, before)})
    except BaseException as error:
        return values.dump({"unfit": f"the returned value: {type(error).__name__}: {error}"[:300]})


def mutable(item: object) -> bool:
    return isinstance(item, (list, dict, set, bytearray))


def changed(given: dict, before: dict) -> dict:
    """By position or keyword, what is no longer as it was packed before the call."""
    return {key: given[key] for key, packed in before.items() if values.pack(given[key]) != packed}


def describe(error: BaseException) -> tuple:
    """The nearest builtin exception's name, and plain arguments for it."""
    known = vars(builtins)
    kind = next(kind for kind in type(error).__mro__ if known.get(kind.__name__) is kind)
    try:
        values.dump(error.args)
        return kind.__name__, error.args
    except Exception:
        return kind.__name__, (str(error)[:300],)
