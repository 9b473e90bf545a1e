import random
import re

from hypothesis import given
from hypothesis import strategies as st

from stages.answers.expression import legal, reaches, read
from stages.core.params import Source
from stages.tasks import countdown

SEEDS = st.integers(0, 2**32)


@given(SEEDS, st.integers(2, 5))
def test_an_attempt_is_legal_and_worked_out_rightly(seed, count):
    rng = random.Random(seed)
    numbers = [rng.randint(1, countdown.LARGEST) for _ in range(count)]
    lines, expression, value = countdown.attempt(rng, numbers)
    assert len(lines) == count - 1 and legal(expression, numbers)
    assert read(expression).value == value and value in countdown.BETWEEN
    assert lines[-1].endswith(f"={value}")
    for line in lines:
        assert read(line) and int(line.partition("=")[2]) in countdown.BETWEEN


@given(SEEDS, st.integers(3, 4))
def test_a_puzzle_has_a_solution_and_shows_an_attempt(seed, count):
    made = countdown.problem(random.Random(seed), count)
    target = made.question.split()[1]
    assert made.level == str(count) == str(len(made.numbers)) and int(target) >= countdown.LEAST
    assert reaches(target, made.gold, made.numbers) and legal(made.shown, made.numbers)
    assert f" from {', '.join(map(str, made.numbers))}." in made.question
    assert made.working.endswith(f"={read(made.shown).value}")


@given(SEEDS, st.integers(2, 4), st.integers(3, 4))
def test_a_search_shows_legal_attempts_that_missed_before_its_answer(seed, tries, count):
    made = countdown.problem(random.Random(seed), count, tries)
    target = made.question.split()[1]
    *missed, last = made.working.split("\nno\n")
    assert len(missed) < tries
    assert last.endswith(f"={read(made.shown).value}")
    for lines in map(str.splitlines, missed):
        assert len(lines) == count - 1 and lines[-1].partition("=")[2] != target
        assert all(read(line) for line in lines)
        left = list(map(str, made.numbers))
        for line in lines:
            first, other, result = re.split(r"[-+*=]", line)
            left.remove(first)
            left.remove(other)
            left.append(result)
        assert len(left) == 1, "each number once"


def test_without_tries_the_demonstrations_are_the_same_bits():
    plain, searched = (
        [countdown.problem(random.Random(seed), 3, *more) for seed in range(50)]
        for more in ((), (2,))
    )
    assert all("no" not in made.working.split() for made in plain)
    assert [made.shown for made in plain] == [made.shown for made in searched]
    assert any("no" in made.working.split() for made in searched)


def test_a_part_of_the_demonstrations_hits_the_target():
    rng = random.Random(0)
    made = [countdown.problem(rng) for _ in range(2000)]
    hits = sum(reaches(one.gold, one.shown, one.numbers) for one in made) / len(made)
    assert 0.40 < hits < 0.50, "0.3 solutions, and a fifth of the rest by chance"


def test_held_out_puzzles_are_in_no_training_row_in_whatever_order():
    task = Source(name="countdown", demonstrations=600, pool=200, test=200)
    train, test = map(list, countdown.load(task, 0))
    assert (len(train), len(test)) == (800, 200)
    tested = [countdown.key(one) for one in test]
    assert len(set(tested)) == 200 and not set(tested) & {countdown.key(one) for one in train}
    assert len({one.question for one in train}) == 800
    again, other = (list(countdown.load(task, seed)[0]) for seed in (0, 1))
    assert again == train != other


def test_levels_say_how_many_numbers():
    task = Source(name="countdown", demonstrations=50, pool=10, test=20, levels=["3", "4"])
    train, test = map(list, countdown.load(task, 0))
    assert {one.level for one in train} == {one.level for one in test} == {"3", "4"}
