# ruff: noqa: E501, RUF001
"""The project's own problems: every gold is worked out anew here, every solution runs."""

import ast
import re
from collections import Counter
from datetime import date, timedelta
from itertools import combinations, permutations, product
from math import factorial, gcd
from pathlib import Path

import pytest
from sympy import (
    Abs,
    Circle,
    E,
    Eq,
    Function,
    Line,
    Point,
    Poly,
    Polygon,
    Rational,
    S,
    Triangle,
    cancel,
    cos,
    diff,
    discriminant,
    dsolve,
    exp,
    expand,
    integrate,
    interpolate,
    isprime,
    latex,
    limit,
    linsolve,
    log,
    minimal_polynomial,
    oo,
    pi,
    series,
    solve,
    solveset,
    sqrt,
    summation,
    symbols,
)

from stages.answers.equality import equal
from stages.core.code import run
from stages.core.files import read_rows
from stages.rewards.text import equations

SAMPLES = Path(__file__).parents[2] / "data" / "samples"
TOPICS = {
    "easy": {"arithmetic": 15, "simple algebra": 15},
    "medium": {"quadratics": 10, "geometry": 10, "word problems": 10},
    "hard": {"calculus": 8, "proofs": 7, "combinatorics": 8, "number theory": 7},
}
MATH = [row for level in TOPICS for row in read_rows(SAMPLES / f"math-{level}.jsonl")]
CODE = list(read_rows(SAMPLES / "code.jsonl"))
ASSERTS = [row for row in CODE if isinstance(row["tests"][0], str)]

a, b, k, p, q, r, t, x, y, C = symbols("a b k p q r t x y C", real=True)
n = symbols("n", integer=True)
z = symbols("z")  # complex
f = Function("f")


def stationary(curve) -> list[tuple]:
    """Where the derivative in x vanishes: (x, value)."""
    return [(at, curve.subs(x, at)) for at in solve(diff(curve, x), x)]


def share(events) -> Rational:
    """How many of equally likely events hold, as a probability."""
    events = list(events)
    return Rational(sum(events), len(events))


def centre_and_radius(left_side) -> tuple:
    circle = Circle(left_side)
    return circle.center.x, circle.center.y, circle.radius


def least_sum_of_reciprocals():
    """1/a + 1/b + 1/c is convex, so that its stationary point with positive a, b, c is least."""
    value = 1 / a + 1 / b + 1 / (1 - a - b)
    points = solve([diff(value, a), diff(value, b)], [a, b], dict=True)
    return min(value.subs(at) for at in points if min(at[a], at[b], 1 - at[a] - at[b]) > 0)


# How each gold follows from the question's numbers: by search or by sympy, not the way the row's
# own solution goes where there is another.
COMPUTED = {
    r"What is $847 + 395 - 268$?": lambda: 847 + 395 - 268,
    r"Solve $3x + 7 = 31$.": lambda: solve(Eq(3 * x + 7, 31), x),
    r"Compute $36 \div 4 \times 3 - 5$.": lambda: Rational(36, 4) * 3 - 5,
    r"Solve $5(y - 2) = 2y + 11$ for $y$.": lambda: solve(Eq(5 * (y - 2), 2 * y + 11), y),
    r"Work out $\frac{2}{3} + \frac{5}{8}$ and give a fraction in lowest terms.": lambda: Rational(2, 3) + Rational(5, 8),
    r"The product $(x + 4)(x - 3)$ equals $x^2 + bx + c$ for every $x$. Find the pair $(b, c)$.": lambda: tuple(Poly((x + 4) * (x - 3), x).all_coeffs()[1:]),
    r"Subtract $1\frac{3}{4}$ from $4\frac{1}{3}$. Give the result as a mixed number.": lambda: 4 + Rational(1, 3) - (1 + Rational(3, 4)),
    r"Which expression must stand in the bracket so that $6a^2 - 15a = 3a(\ldots)$ holds for every $a$?": lambda: cancel((6 * a**2 - 15 * a) / (3 * a)),
    r"A scarf costs \$24. In a sale its price falls by 15%. What is the sale price in dollars?": lambda: 24 - 24 * Rational(15, 100),
    r"Let $f(x) = 2x - 9$. Find $f(-3)$.": lambda: (2 * x - 9).subs(x, -3),
    r"Evaluate $(-7)^2 - 4 \cdot (-6)$.": lambda: (-7) ** 2 - 4 * (-6),
    r"Solve the system $x + y = 10$, $x - y = 4$. Give the pair $(x, y)$.": lambda: tuple(*linsolve([x + y - 10, x - y - 4], x, y)),
    r"Three litres of juice are shared equally among 11 jars. How many litres does each jar hold? Give a repeating decimal.": lambda: Rational(3, 11),
    r"Solve the inequality $4 - 3x \ge 19$. Give the solution set as an interval.": lambda: solveset(4 - 3 * x >= 19, x, S.Reals),
    r"Which of $\frac{5}{7}$, $\frac{8}{11}$ and $\frac{7}{10}$ is the largest?": lambda: max(Rational(5, 7), Rational(8, 11), Rational(7, 10)),
    r"Find all solutions of $|x - 2| = 5$.": lambda: solve(Eq(Abs(x - 2), 5), x),
    r"A drop of water holds about $1.5 \times 10^{21}$ molecules. How many molecules do 4000 such drops hold? Use scientific notation.": lambda: 15 * 10**20 * 4000,
    r"The circumference of a circle is $C = 2\pi r$. Express $r$ in terms of $C$.": lambda: solve(Eq(C, 2 * pi * r), r),
    r"A train leaves at 9:47 and arrives at 13:12 on the same day. How long does the journey take, in minutes?": lambda: (13 * 60 + 12) - (9 * 60 + 47),
    r"Find the equation of the line through $(1, 4)$ and $(5, 12)$ in the form $y = mx + b$.": lambda: Eq(y, interpolate([(1, 4), (5, 12)], x)),
    r"What is the greatest common divisor of 84 and 126?": lambda: max(d for d in range(1, 85) if 84 % d == 126 % d == 0),
    r"A number decreased by 40% of itself is 27. What is the number?": lambda: solve(x - Rational(40, 100) * x - 27, x),
    r"How many seconds are there in 2.5 hours?": lambda: Rational(5, 2) * 60 * 60,
    r"What is the value of $\frac{x^2 - 9}{x - 3}$ at $x = \frac{1}{2}$?": lambda: ((x**2 - 9) / (x - 3)).subs(x, Rational(1, 2)),
    r"Find the mean of 12, 15, 9, 21 and 7.": lambda: Rational(12 + 15 + 9 + 21 + 7, 5),
    r"The sum of three consecutive even integers is 78. Find the three integers.": lambda: next([k, k + 2, k + 4] for k in range(0, 78, 2) if k + k + 2 + k + 4 == 78),
    r"A class of 40 pupils has 26 girls. What percentage of the class are boys?": lambda: Rational(40 - 26, 40) * 100,
    r"Find $n$ if $4 \cdot 2^n = 128$.": lambda: next(n for n in range(128) if 4 * 2**n == 128),
    r"One square has an area of 50 and another an area of 18. What is the sum of their side lengths, in simplest radical form?": lambda: sqrt(50) + sqrt(18),
    r"Solve $\frac{t}{2} + \frac{t}{3} = 4$.": lambda: solve(Eq(t / 2 + t / 3, 4), t),
    r"Solve $x^2 - 5x - 24 = 0$.": lambda: solve(x**2 - 5 * x - 24, x),
    r"A right triangle has legs of 9 cm and 40 cm. How long is its hypotenuse?": lambda: Point(9, 0).distance(Point(0, 40)),
    r"How many millilitres of a 30% salt solution must be added to 200 ml of a 10% salt solution to get a 15% solution? Give a mixed number.": lambda: solve(Eq(Rational(30, 100) * x + Rational(10, 100) * 200, Rational(15, 100) * (200 + x)), x),
    r"Find the exact solutions of $2x^2 - 8x + 3 = 0$.": lambda: solve(2 * x**2 - 8 * x + 3, x),
    r"A circle has circumference $14\pi$. What is its area?": lambda: pi * solve(2 * pi * r - 14 * pi, r)[0] ** 2,
    r"Ana paints a fence in 6 hours, Ben paints the same fence in 4 hours. How many hours do they need together?": lambda: solve(Eq(t / 6 + t / 4, 1), t),
    r"Solve $z^2 - 4z + 13 = 0$ over the complex numbers.": lambda: solve(z**2 - 4 * z + 13, z),
    r"Each interior angle of a regular polygon measures $156^\circ$. How many sides has the polygon?": lambda: next(n for n in range(3, 361) if 180 * (n - 2) == 156 * n),
    r"Two cyclists start 90 km apart and ride towards each other at 16 km/h and 20 km/h. How far has the slower one ridden when they meet?": lambda: 16 * solve(Eq(16 * t, 90 - 20 * t), t)[0],
    r"For which real numbers $k$ does $x^2 + kx + 16 = 0$ have exactly one real solution? Give the set of all such $k$.": lambda: set(solve(discriminant(x**2 + k * x + 16, x), k)),
    r"What is the area of an equilateral triangle with side 10?": lambda: Triangle(sss=(10, 10, 10)).area,
    r"Mara is four times as old as her son. In six years she will be two and a half times as old as he will be then. How old is Mara now?": lambda: [4 * s for s in range(1, 100) if 2 * (4 * s + 6) == 5 * (s + 6)],
    r"Find the vertex of the parabola $y = 3x^2 - 12x + 7$.": lambda: stationary(3 * x**2 - 12 * x + 7)[0],
    r"A cone has a base radius of 6 cm and a height of 8 cm. What is its volume?": lambda: pi * integrate((6 * x / 8) ** 2, (x, 0, 8)),
    r"A kiosk sells pencils at \$0.45 and pens at \$1.20. One day it sells 30 of them for \$24.00 altogether. How many pens does it sell?": lambda: [pens for pens in range(31) if 120 * pens + 45 * (30 - pens) == 2400],
    r"Solve the inequality $x^2 - x - 6 < 0$. Give the solution set as an interval.": lambda: solveset(x**2 - x - 6 < 0, x, S.Reals),
    r"What is the distance from the point $(3, -1)$ to the line $3x + 4y = 17$?": lambda: Line(3 * x + 4 * y - 17).distance(Point(3, -1)),
    r"A price is raised by 20% and the new price is then cut by 25%. By what percentage is the final price lower than the original one?": lambda: 100 - Rational(120 * 75, 100),
    r"For which real $x$ is $x^2 \ge 4x + 5$? Give the solution set in interval notation.": lambda: solveset(x**2 >= 4 * x + 5, x, S.Reals),
    r"The angles of a triangle are in the ratio $2 : 3 : 7$. How large is the largest angle?": lambda: 7 * solve(2 * x + 3 * x + 7 * x - 180, x)[0],
    r"A rectangular garden is 5 m longer than it is wide, and its area is 204 square metres. What is its perimeter?": lambda: [2 * (w + w + 5) for w in range(205) if w * (w + 5) == 204],
    r"Let $r$ and $s$ be the roots of $2x^2 - 7x + 4 = 0$. Find $r^2 + s^2$.": lambda: expand(sum(root**2 for root in solve(2 * x**2 - 7 * x + 4, x))),
    r"Two similar triangles have areas 36 and 100. A side of the smaller one is 9. How long is the corresponding side of the larger one?": lambda: [side for side in range(1, 100) if side**2 * 36 == 9**2 * 100],
    r"Today is a Tuesday. Which day of the week is it in 100 days?": lambda: f"{date(2024, 1, 2) + timedelta(days=100):%A}",
    r"Numbers $p$ and $q$ are such that $x^2 + 6x + 1 = (x + p)^2 + q$ for every $x$. Find the pair $(p, q)$.": lambda: solve(Poly((x + p) ** 2 + q - (x**2 + 6 * x + 1), x).coeffs(), [p, q])[0],
    r"A circle has the equation $x^2 + y^2 - 8x + 2y + 8 = 0$. Its centre is $(h, k)$ and its radius $r$. Find $(h, k, r)$.": lambda: centre_and_radius(x**2 + y**2 - 8 * x + 2 * y + 8),
    r"\$2,000 are put into an account at 5% interest a year, compounded once a year. How much is in the account after 3 years?": lambda: 2000 * Rational(105, 100) ** 3,
    r"Find the quadratic polynomial in $x$ with leading coefficient 1 whose roots are $3 + \sqrt{2}$ and $3 - \sqrt{2}$.": lambda: minimal_polynomial(3 + sqrt(2), x),
    r"The diagonals of a rhombus are 16 m and 30 m long. What is its perimeter?": lambda: Polygon((8, 0), (0, 15), (-8, 0), (0, -15)).perimeter,
    r"A van drives 120 km at 60 km/h and returns the same way at 40 km/h. What is its average speed for the whole trip?": lambda: 240 / (Rational(120, 60) + Rational(120, 40)),
    r"Evaluate $\int_1^e x \ln x \, dx$.": lambda: integrate(x * log(x), (x, 1, E)),
    r"Determine, with proof, the largest integer that divides $n^5 - n$ for every integer $n$.": lambda: gcd(*[n**5 - n for n in range(2, 60)]),
    r"In how many different orders can the letters of the word BANANAS be arranged?": lambda: len(set(permutations("BANANAS"))),
    r"What is the remainder when $7^{2026}$ is divided by 100?": lambda: 7**2026 % 100,
    r"Find $\lim_{x \to 0} \frac{1 - \cos 3x}{x^2}$.": lambda: limit((1 - cos(3 * x)) / x**2, x, 0),
    r"Prove that $\sqrt{2} + \sqrt{3}$ is irrational by finding the polynomial of least degree with rational coefficients and leading coefficient 1 that has it as a root. Give that polynomial in $x$.": lambda: minimal_polynomial(sqrt(2) + sqrt(3), x),
    r"A committee of 5 is chosen from 6 women and 5 men. In how many ways can it have at least 3 women?": lambda: sum(chosen.count("w") >= 3 for chosen in combinations("wwwwwwmmmmm", 5)),
    r"Find the smallest positive integer that leaves the remainder 2 when divided by 5, 3 when divided by 7 and 4 when divided by 9.": lambda: next(n for n in range(1, 316) if (n % 5, n % 7, n % 9) == (2, 3, 4)),
    r"Find the equation of the tangent to the curve $y = x^3 - 2x$ at the point with $x = 2$.": lambda: Eq(y, series(x**3 - 2 * x, x, 2, 2).removeO()),
    r"Positive real numbers $a$, $b$, $c$ satisfy $a + b + c = 1$. Find, with proof, the least value of $\frac{1}{a} + \frac{1}{b} + \frac{1}{c}$.": lambda: least_sum_of_reciprocals(),
    r"How many solutions in non-negative integers has $a + b + c + d = 12$ if none of the four numbers may exceed 6?": lambda: sum(sum(four) == 12 for four in product(range(7), repeat=4)),
    r"How many positive divisors of 7200 are perfect squares?": lambda: sum(7200 % root**2 == 0 for root in range(1, 85)),
    r"What is the greatest value of $f(x) = x e^{-2x}$ on the real line?": lambda: max(value for _, value in stationary(x * exp(-2 * x))),
    r"Find, with proof, the smallest $k$ such that every set of $k$ different numbers chosen from $1, 2, \ldots, 12$ contains two whose sum is 13.": lambda: next(k for k in range(2, 13) if all(any(13 - i in chosen for i in chosen) for chosen in combinations(range(1, 13), k))),
    r"Two fair dice are rolled, and at least one of them shows a 5. What is the probability that the sum is at least 9?": lambda: share(sum(dice) >= 9 for dice in product(range(1, 7), repeat=2) if 5 in dice),
    r"Write the number 2026 in base 7.": lambda: next(f"{n}_7" for n in range(10_000) if set(str(n)) <= set("0123456") and int(str(n), 7) == 2026),
    r"Find the largest open interval on which $f(x) = x^3 - 6x^2 + 9x + 1$ is strictly decreasing.": lambda: solveset(diff(x**3 - 6 * x**2 + 9 * x + 1, x) < 0, x, S.Reals),
    r"Prove a formula for $1 \cdot 1! + 2 \cdot 2! + \cdots + n \cdot n!$ and use it to find the sum for $n = 9$.": lambda: sum(k * factorial(k) for k in range(1, 10)),
    r"A path goes from $(0, 0)$ to $(6, 4)$ in steps of one to the right or one up. How many such paths do not pass through $(3, 2)$?": lambda: sum(sum(ups) == 4 and sum(ups[:5]) != 2 for ups in product((0, 1), repeat=10)),
    r"Find all pairs $(x, y)$ of positive integers with $xy = 3(x + y)$.": lambda: [pair for pair in product(range(1, 100), repeat=2) if pair[0] * pair[1] == 3 * sum(pair)],
    r"Find the area of the region enclosed by $y = x^2$ and $y = 2x + 3$.": lambda: integrate(2 * x + 3 - x**2, (x, *sorted(solve(x**2 - 2 * x - 3, x)))),
    r"Find all positive integers $n$ for which $n^4 + 4$ is a prime number, and prove that there are no others.": lambda: [n for n in range(1, 2000) if isprime(n**4 + 4)],
    r"How many subsets of $\{1, 2, \ldots, 10\}$, the empty set included, contain no two consecutive integers?": lambda: sum(bits & bits >> 1 == 0 for bits in range(2**10)),
    r"With how many zeros does the number $250!$ end?": lambda: len(str(factorial(250))) - len(str(factorial(250)).rstrip("0")),
    r"Find the sum of the series $\sum_{n=1}^{\infty} \frac{n}{3^n}$.": lambda: summation(n / 3**n, (n, 1, oo)),
    r"Find, with proof, the largest constant $c$ such that $x^4 + y^4 \ge c(x + y)^4$ for all real $x$ and $y$.": lambda: min(value for _, value in stationary(x**4 + (1 - x) ** 4)),
    r"Five letters are put at random into five addressed envelopes, one into each. What is the probability that no letter is in its own envelope?": lambda: share(all(i != at for at, i in enumerate(order)) for order in permutations(range(5))),
    r"What is the greatest common divisor of $2^{40} - 1$ and $2^{24} - 1$?": lambda: gcd(2**40 - 1, 2**24 - 1),
    r"The function $y(x)$ satisfies $y' = 6 - 3y$ and $y(0) = 5$. Find $y$ as an expression in $x$.": lambda: dsolve(f(x).diff(x) - 6 + 3 * f(x), ics={f(0): 5}).rhs,
    r"What is the coefficient of $x^4$ in the expansion of $(1 + x + x^2)^5$?": lambda: expand((1 + x + x**2) ** 5).coeff(x, 4),
}  # fmt: skip


def written(value) -> str:
    """A computed value as an answer: a list is a list of solutions, a set and a tuple are such."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(map(written, value))
    if isinstance(value, tuple):
        return f"({', '.join(map(written, value))})"
    if isinstance(value, set):
        return rf"\{{{', '.join(map(written, value))}\}}"
    return latex(value)


def missed(answer: str) -> str:
    """A near miss: the first number one larger, or another word."""
    near = re.sub(r"\d+", lambda found: str(int(found[0]) + 1), answer, count=1)
    return near if near != answer else answer.replace(r"\text{", r"\text{not ")


def normalised(text: str) -> str:
    return " ".join(re.sub(r"[^\w+*/^=<>-]", " ", text.casefold()).split())


def called(problem: str) -> str | None:
    """The function that a problem asks for; None where it asks for a program."""
    found = re.match(r"Write a function `(\w+)\(", problem)
    return found[1] if found else None


def expected(test: str | dict) -> str:
    """What an assert compares with, or the output of a program."""
    if isinstance(test, dict):
        return test["output"]
    comparison = ast.parse(test).body[0].test
    assert isinstance(comparison, ast.Compare) and len(comparison.ops) == 1
    return ast.unparse(comparison.comparators[0])


def test_every_math_row_has_its_fields():
    for row in MATH:
        assert row.keys() == {"question", "answer", "solution", "level", "topic"}
        assert all(
            isinstance(value, str) and value == value.strip() != "" for value in row.values()
        )


@pytest.mark.parametrize("level", TOPICS)
def test_a_level_has_its_topics(level):
    rows = list(read_rows(SAMPLES / f"math-{level}.jsonl"))
    assert {row["level"] for row in rows} == {level}
    assert Counter(row["topic"] for row in rows) == TOPICS[level]


def test_questions_are_distinct():
    for texts in ([row["question"] for row in MATH], [row["problem"] for row in CODE]):
        assert len({normalised(text) for text in texts}) == len(texts)


def test_every_question_is_worked_out_here():
    assert [row["question"] for row in MATH] == list(COMPUTED)


@pytest.mark.parametrize("row", MATH, ids=lambda row: row["question"][:40])
def test_the_gold_is_right(row):
    computed = written(COMPUTED[row["question"]]())
    assert equal(row["answer"], computed) and equal(computed, row["answer"]), computed
    assert not equal(missed(row["answer"]), computed)


def test_a_gold_equals_itself_and_no_near_miss():
    for row in MATH:
        gold = row["answer"]
        assert equal(gold, gold) and equal(gold, f"${gold}$"), gold
        assert not equal(gold, missed(gold)), gold


@pytest.mark.parametrize(
    ("gold", "answers"),
    [
        (r"2\frac{7}{12}", ["31/12", "2 7/12"]), (r"\$20.40", ["20.4", "$20.40", "20.40 dollars"]),
        (r"35\%", ["35", "35 percent"]), (r"205 \text{ minutes}", ["205", "205 min"]),
        (r"0.\overline{27}", ["3/11"]), (r"6 \times 10^{24}", ["6e24", "6.0 × 10^24"]),
        (r"8\sqrt{2}", [r"\sqrt{128}", "8√2"]), (r"(-\infty, -5]", [r"x \le -5", "(-∞, -5]"]),
        ("-3, 7", ["7, -3", "x = 7 or x = -3"]), (r"\frac{C}{2\pi}", ["C/(2π)", "r = C/(2*pi)"]),
        (r"\{-8, 8\}", [r"\{8, -8\}", r"k = \pm 8"]), ("(-2, 3)", ["-2 < x < 3"]),
        (r"2 \pm \frac{\sqrt{10}}{2}", [r"\frac{4 \pm \sqrt{10}}{2}"]), (r"2 \pm 3i", ["2+3i, 2-3i"]),
        (r"96\pi \text{ cm}^3", [r"96\pi \text{ cubic centimeters}", "96π cm³"]),
        (r"\frac{e^2 + 1}{4}", [r"\frac{e^2}{4} + \frac14"]), ("2 + 3e^{-3x}", [r"2+\frac{3}{e^{3x}}"]),
        ("y = 2x + 2", ["2x - y + 2 = 0"]), ("5623_7", ["5623_{7}"]), ("n = 1", ["1"]),
    ],
)  # fmt: skip
def test_a_gold_is_found_in_other_forms(gold, answers):
    assert gold in {row["answer"] for row in MATH}
    for answer in answers:
        assert equal(gold, answer), answer


def test_solutions_are_short_and_end_in_the_gold():
    for row in MATH:
        solution = row["solution"]
        assert 2 <= len(solution.splitlines()) <= 8 and max(map(len, solution.splitlines())) <= 200
        assert "the answer is" not in solution.lower() and not re.search(
            r"</?\w|####|boxed", solution
        )
        # as a whole: 5 inside 15 or 5.2 does not count
        last = solution.splitlines()[-1]
        assert re.search(rf"(?<![\w.,]){re.escape(row['answer'])}(?!\w|[.,]\d)", last), last


def test_the_sums_of_arithmetic_solutions_are_right():
    shown = [row["solution"] for row in MATH if row["topic"] == "arithmetic"]
    sums = [equation for solution in shown for equation in equations(solution)]
    assert len(sums) >= len(shown) and all(left == right for left, right in sums)


def test_every_programming_row_has_its_fields():
    for row in CODE:
        assert row.keys() == {"problem", "tests", "solution", "level", "topic"}
        assert row["level"] in TOPICS and 4 <= len(row["tests"]) <= 8
    assert len(CODE) == 40 and len(ASSERTS) == 30
    assert set(Counter(row["topic"] for row in CODE).values()) == {5}


def test_tests_call_the_named_function_and_want_different_values():
    for row in CODE:
        name = called(row["problem"])
        assert (name is not None) == (row in ASSERTS)
        assert name is None or all(test.startswith(f"assert {name}(") for test in row["tests"])
        assert len(set(map(str, row["tests"]))) == len(row["tests"])
        assert len(set(map(expected, row["tests"]))) > 1  # else a constant would pass


def test_every_solution_passes_all_its_tests():
    verdicts = run([(row["solution"], row["tests"]) for row in CODE])
    for row, verdict in zip(CODE, verdicts, strict=True):
        assert verdict.passed == verdict.total == len(row["tests"]), (row["problem"], verdict)


@pytest.mark.parametrize("body", ["", "return None", "return args[0]"])
def test_empty_solutions_pass_no_problem(body):
    """Nothing at all, nothing returned, the first argument returned."""
    names = [called(row["problem"]) for row in ASSERTS]
    codes = [f"def {name}(*args):\n    {body}\n" if body else "" for name in names]
    tests = [row["tests"] for row in ASSERTS]
    for name, verdict in zip(names, run(list(zip(codes, tests, strict=True))), strict=True):
        assert verdict.passed is not None and verdict.passed < verdict.total, name


@pytest.mark.parametrize("code", ["", "import sys; print(sys.stdin.read())"])
def test_empty_programs_pass_no_problem(code):
    """Nothing printed, the input printed."""
    programs = [row for row in CODE if row not in ASSERTS]
    verdicts = run([(code, row["tests"]) for row in programs])
    for row, verdict in zip(programs, verdicts, strict=True):
        assert verdict.passed is not None and verdict.passed < verdict.total, row["problem"]
