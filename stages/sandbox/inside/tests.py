"""The tests' side: the candidate's functions are proxies that send arguments and get plain values.

One frame per call (`C`) is answered by `V` and the candidate's bytes, or by `G` and why it is gone.
One frame per test: `1`, or `0` and the reason. The candidate has no hold on this process.
"""

import builtins
from collections.abc import Callable

from . import channel, values


class Unanswered(BaseException):
    """The candidate gave no value. Not an Exception: a test's `except Exception` must not hide it.

    A bare `except:` hides it none the less, so `Link.fault` counts, too.
    """


class Link:
    """The pipes to the parent, and why the current test's last call went unanswered."""

    def __init__(self, inlet: int, outlet: int):
        self.inlet, self.outlet, self.fault = inlet, outlet, ""

    def fail(self, reason: str) -> None:
        self.fault = reason
        raise Unanswered(reason)

    def call(self, name: str, arguments: tuple, keywords: dict) -> object:
        try:
            request = values.dump([name, list(arguments), keywords])
        except (TypeError, ValueError, RecursionError) as error:
            self.fail(f"an argument: {error}")
        channel.send(self.outlet, b"C" + request)
        reply = channel.receive(self.inlet)
        if reply[:1] == b"G":
            self.fail(reply[1:].decode())
        return self.take(reply[1:], dict(enumerate(arguments)) | keywords)

    def take(self, data: bytes, given: dict) -> object:
        """The value in a candidate's reply; raises what the candidate raised.

        Args:
            data: the reply.
            given: the call's arguments by position or keyword.
        """
        try:
            reply = values.load(data)
            error = make_error(*reply["raised"]) if "raised" in reply else None
            changed = [(given[key], new) for key, new in reply.get("changed", {}).items()]
        except Exception as broken:
            self.fail(f"a broken reply: {type(broken).__name__}")
        if error:
            raise error
        if "value" not in reply:
            self.fail(str(reply.get("unfit", "a broken reply"))[:300])
        for argument, new in changed:
            overwrite(argument, new)
        return reply["value"]


def make_error(kind: str, arguments: tuple) -> Exception:
    """An exception of that builtin type; RuntimeError for what would end this process."""
    type_ = getattr(builtins, kind, None)
    if not (isinstance(type_, type) and issubclass(type_, Exception)):
        return RuntimeError(f"the candidate raised {kind}")
    try:
        return type_(*arguments)
    except TypeError:
        return RuntimeError(f"the candidate raised {kind}: {arguments!r}"[:300])


def overwrite(argument: object, new: object) -> None:
    """Gives a list, dict, set or bytearray the content that the call left it with."""
    if type(argument) is not type(new):
        return
    if isinstance(argument, (list, bytearray)):
        argument[:] = new
    elif isinstance(argument, (dict, set)):
        argument.clear()
        argument.update(new)


def judge(order: dict, inlet: int, outlet: int) -> None:
    link = Link(inlet, outlet)
    space = {"__name__": "tests"}
    broken = run(link, order["setup"], space)
    names, wrong = callable_names(channel.receive(inlet))
    broken = wrong or (broken and f"setup: {broken}")
    for name in names:
        if name == order["entry_point"] or not (name in space or hasattr(builtins, name)):
            space[name] = proxy(link, name)
    for test in order["tests"]:
        reason = broken or run(link, test, dict(space))
        channel.send(outlet, b"0" + reason[:300].encode(errors="replace") if reason else b"1")


def callable_names(data: bytes) -> tuple[list[str], str]:
    """The candidate's own list, nothing but identifiers; or why its code did not run through."""
    try:
        message = values.load(data)
        if "raised" in message:
            return [], f"the candidate's code raised {message['raised']!r}"
        return [name for name in message["names"] if name.isidentifier() and name[:2] != "__"], ""
    except Exception:
        return [], "the candidate's code broke the first message"


def proxy(link: Link, name: str) -> Callable:
    def function(*arguments, **keywords):
        return link.call(name, arguments, keywords)

    function.__name__ = function.__qualname__ = name
    return function


def run(link: Link, source: str, space: dict) -> str:
    """Empty where the source runs through and every call was answered, else the reason."""
    link.fault = ""
    try:
        exec(compile(source, "<tests>", "exec"), space)
    except BaseException as error:
        return link.fault or f"{type(error).__name__}: {error}".removesuffix(": ")
    return link.fault
