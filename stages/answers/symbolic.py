r"""The symbolic comparison, run as a process of its own: `python -m stages.answers.symbolic`.

Reads one JSON request a line, writes one JSON verdict a line. LaTeX goes through math-verify's
parser (latex2sympy2_extended) alone; a model's text never reaches `eval`, `sympify` or
`parse_expr`. Memory and processor time are limited here: a busy machine changes no verdict.
"""

import json
import os
import re
import resource
import select
import signal
import sys
from functools import lru_cache

from stages.answers import compare

MEMORY = 2 * 2**30  # bytes of address space; sympy and the parser take about 0.4 GiB
SECONDS = 1.5  # of processor time for one request; then SIGPROF ends this process
POINTS = 3  # random points at which a difference must vanish before it is simplified


@lru_cache(maxsize=4096)
def parsed(latex: str):
    """A sympy expression, decimals made exact. Golds recur, hence the cache.

    Raises:
        Exception: the parser does not read it.
    """
    import sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy

    config = ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False)
    expression = latex2sympy(
        explicit(latex), is_real=True, normalization_config=None, conversion_config=config
    )
    if not isinstance(expression, sympy.Expr):
        raise ValueError("no expression")
    exact = {number: sympy.Rational(str(number)) for number in expression.atoms(sympy.Float)}
    imaginary = {s: sympy.I for s in expression.free_symbols if s.name == "i"}
    return expression.xreplace(exact).xreplace(imaginary).doit()


def explicit(latex: str) -> str:
    r"""Mixed numbers as sums and products of brackets as products, which the parser confuses.

    >>> explicit(r"2\frac{1}{3}"), explicit("3(4)"), explicit("(a)(b)")
    ('(2+\\frac{1}{3})', '3\\cdot (4)', '(a)\\cdot (b)')
    """
    latex = re.sub(r"(?<![\d.])(\d+)(\\frac\{\d+\}\{\d+\})(?!\^)", r"(\1+\2)", latex)
    return re.sub(r"(?<=[\d)])\(", r"\\cdot (", latex)


def same_value(gold: str, answer: str) -> bool:
    """Is the difference provably zero? Numbers only rule it out; they never prove it."""
    import sympy

    one, other = parsed(gold), parsed(answer)
    if one == other:
        return True
    if one.has(sympy.oo, sympy.zoo, sympy.nan) or other.has(sympy.oo, sympy.zoo, sympy.nan):
        return False
    if one.free_symbols != other.free_symbols and not (one.free_symbols and other.free_symbols):
        return False
    difference = one - other
    return vanishes(difference) and proven_zero(difference)


def vanishes(expression) -> bool:
    """Is it zero to 30 digits at a few points? Cheap, and settles nearly every wrong answer."""
    import sympy

    symbols = sorted(expression.free_symbols, key=str)
    for point in range(1, POINTS + 1):
        values = {s: sympy.Rational(7 * point + 3 * k + 2, 11 + k) for k, s in enumerate(symbols)}
        size = abs(expression.subs(values).evalf(40, maxn=200))
        if size.is_number and size.is_comparable and size > sympy.Float("1e-25"):
            return False
    return True


def proven_zero(difference) -> bool:
    import sympy

    if sympy.expand(difference) == 0 or sympy.simplify(difference) == 0:
        return True
    return difference.equals(0) is True


def same_equation(gold: str, answer: str) -> bool:
    """Are both sides' differences the same up to a constant factor?"""
    import sympy

    (left, right), (other_left, other_right) = gold.split("="), answer.split("=")
    one = sympy.expand(parsed(left) - parsed(right))
    other = sympy.expand(parsed(other_left) - parsed(other_right))
    if one == 0 or other == 0 or one.free_symbols != other.free_symbols:
        return False
    ratio = sympy.simplify(one / other)
    return bool(ratio.is_number and ratio.is_finite and ratio != 0)


def decide(kind: str, gold: str, answer: str) -> bool:
    """What cannot be parsed or worked out is not equal."""
    try:
        return (same_equation if kind == "equation" else same_value)(gold, answer)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception:  # the parser and sympy raise nearly anything on hostile text
        return False


def limit() -> None:
    """Memory (on Linux: elsewhere the kernel refuses that limit), core files, recursion."""
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # a parent that ignores it hands that on
    sys.setrecursionlimit(5_000)


def requests(parent: int):
    """Lines from the parent, until the pipe closes or it is gone (a fork may hold the pipe)."""
    waiting = b""
    while os.getppid() == parent:
        if not select.select([0], [], [], 2.0)[0]:
            continue
        if not (chunk := os.read(0, 65536)):
            return
        waiting += chunk
        while b"\n" in waiting:
            line, _, waiting = waiting.partition(b"\n")
            yield line


def serve(parent: int) -> None:
    limit()
    decide("value", r"\frac{1}{2}+\sqrt{x}", r"\sqrt{x}+\frac{2}{4}")  # imports, parser's tables
    os.write(1, b"ready\n")
    for line in requests(parent):
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        gold, answer, percent = json.loads(line)
        try:
            verdict = compare.same(gold, answer, percent, decide)
        except MemoryError:
            os.write(1, b"null\n")  # neither verdict: counted as a crash, and not asked again
            return
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.write(1, json.dumps(bool(verdict)).encode() + b"\n")


if __name__ == "__main__":
    serve(int(sys.argv[1]))
