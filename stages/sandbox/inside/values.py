"""Plain values as JSON. A JSON object is always one tag with its content: {"t": [1, 2]} is (1, 2).

Reading builds nothing but the types below, whatever the bytes hold. A subclass (Counter, a named
tuple, an IntEnum) travels as its plain base, so no method of the candidate's reaches the tests.
"""

import json
from collections.abc import Iterator
from itertools import islice

ITEMS = 100_000  # of an iterator; an endless one must not hang the run


class NotPlain(TypeError):
    """A value that has no plain form: a function, an object, an iterator without end."""


def dump(value: object) -> bytes:
    """NotPlain, or RecursionError for a value that contains itself."""
    return json.dumps(pack(value)).encode()


def load(data: bytes) -> object:
    """ValueError, TypeError, RecursionError or MemoryError where `data` is not from `dump`."""
    return unpack(json.loads(data))


def pack(value: object) -> object:
    if value is None or isinstance(value, (bool, float, str)):
        return value
    if isinstance(value, int):  # Python reads no decimal of more than 4,300 digits
        return value if -(1 << 63) <= value < 1 << 63 else {"i": hex(value)}
    if isinstance(value, list):
        return [pack(item) for item in value]
    if isinstance(value, dict):
        return {"d": [[pack(key), pack(item)] for key, item in value.items()]}
    if isinstance(value, complex):
        return {"c": [value.real, value.imag]}
    if isinstance(value, range):
        return {"r": [pack(value.start), pack(value.stop), pack(value.step)]}
    return pack_sequence(value)


def pack_sequence(value: object) -> object:
    if isinstance(value, tuple):
        return {"t": [pack(item) for item in value]}
    if isinstance(value, set):
        return {"s": [pack(item) for item in value]}
    if isinstance(value, frozenset):
        return {"f": [pack(item) for item in value]}
    if isinstance(value, bytes):
        return {"b": value.decode("latin-1")}
    if isinstance(value, bytearray):
        return {"a": value.decode("latin-1")}
    if isinstance(value, Iterator):
        return {"n": pack_iterator(value)}
    raise NotPlain(f"{type(value).__name__} is no plain value")


def pack_iterator(value: Iterator) -> list:
    """A generator's items: on the other side it is an iterator again, not a list."""
    items = [pack(item) for item in islice(value, ITEMS + 1)]
    if len(items) > ITEMS:
        raise NotPlain(f"an iterator of more than {ITEMS} items is no plain value")
    return items


BUILD = {
    "i": lambda text: int(text, 16),
    "d": lambda pairs: {unpack(key): unpack(value) for key, value in pairs},
    "c": lambda parts: complex(*parts),
    "r": lambda parts: range(*[unpack(part) for part in parts]),
    "t": lambda items: tuple(unpack(item) for item in items),
    "s": lambda items: {unpack(item) for item in items},
    "f": lambda items: frozenset(unpack(item) for item in items),
    "b": lambda text: text.encode("latin-1"),
    "a": lambda text: bytearray(text.encode("latin-1")),
    "n": lambda items: iter([unpack(item) for item in items]),
}


def unpack(data: object) -> object:
    if isinstance(data, list):
        return [unpack(item) for item in data]
    if not isinstance(data, dict):
        return data
    ((tag, content),) = data.items()
    if tag not in BUILD:
        raise ValueError(f"unknown tag {tag!r}")
    return BUILD[tag](content)
