"""Plain values come back as they were, and nothing else comes back at all."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.sandbox.inside import values

KEYS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
KEYS |= st.binary() | st.complex_numbers(allow_nan=False)
PLAIN = st.recursive(
    KEYS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.sets(KEYS)
        | st.frozensets(KEYS)
        | st.dictionaries(KEYS | st.tuples(KEYS), inner)
    ),
)


def typed(value: object) -> object:
    """Distinguishes what == does not: 1, True and 1.0, or 0.0 and -0.0."""
    if isinstance(value, dict):
        return [(typed(key), typed(item)) for key, item in value.items()]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(repr(typed(item)) for item in value)
    if isinstance(value, (list, tuple)):
        return type(value), [typed(item) for item in value]
    return type(value), repr(value)


@given(PLAIN)
def test_round_trip(value: object):
    assert typed(values.load(values.dump(value))) == typed(value)


@pytest.mark.parametrize(
    "value", [-(2**64), 2**63, float("inf"), -0.0, "\ud800", bytearray(b"\xff"), range(9, 1, -2)]
)
def test_odd_values(value: object):
    assert typed(values.load(values.dump(value))) == typed(value)


def test_integer_of_more_digits_than_python_prints():
    assert values.load(values.dump(-(10**5000))) == -(10**5000)


def test_nan():
    assert math.isnan(values.load(values.dump(math.nan)))


def test_iterator_comes_back_as_an_iterator():
    back = values.load(values.dump(x * x for x in range(3)))
    assert next(back) == 0
    assert list(back) == [1, 4]


@pytest.mark.parametrize("value", [print, object(), int, values, iter(int, 1), {1: [object()]}])
def test_what_is_not_plain(value: object):
    with pytest.raises(values.NotPlain):
        values.dump(value)


@given(st.binary(max_size=30) | PLAIN.map(values.dump).map(lambda data: data[1:]))
def test_bytes_of_anybody(data: bytes):
    with contextlib.suppress(ValueError, TypeError, OverflowError, AttributeError):
        values.load(data)
