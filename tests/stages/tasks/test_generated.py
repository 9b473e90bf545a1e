"""What is held out is nowhere else, in whatever words."""

import random
from itertools import islice

import pytest

from stages.core.errors import UserError
from stages.core.params import Source
from stages.tasks import arithmetic, countdown, functions, generated
from stages.tasks.problem import Problem

KEYS = {"arithmetic": arithmetic.chain_of, "countdown": countdown.key, "functions": functions.steps}
MAKERS = {"arithmetic": arithmetic, "countdown": countdown, "functions": functions}


def sides(name: str, dev: int, seed: int = 0) -> tuple[list, list, list]:
    task = Source(name=name, demonstrations=300, pool=100, dev=dev, test=60)
    train, test = map(list, MAKERS[name].load(task, seed))
    return [p for p in train if not p.dev], [p for p in train if p.dev], test


@pytest.mark.parametrize("name", MAKERS)
def test_neither_dev_nor_test_problems_are_trained_on(name):
    found = sides(name, dev=50)
    assert [len(side) for side in found] == [400, 50, 60]
    train, dev, test = ({KEYS[name](made) for made in side} for side in found)
    assert not train & dev and not train & test and not dev & test


@pytest.mark.parametrize("name", MAKERS)
def test_without_dev_problems_their_part_is_trained_on(name):
    train, dev, test = sides(name, dev=0)
    assert not dev and test == sides(name, dev=50)[2]
    held_out = countdown.TEST if name == "countdown" else generated.TEST
    assert {generated.part(KEYS[name](made)) for made in test} == held_out
    assert {generated.part(KEYS[name](made)) for made in train} == generated.training(held_out)
    assert {generated.part(KEYS[name](made)) for made in sides(name, dev=50)[1]} == generated.DEV


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("levels", [["3"], ["2", "3"]])
def test_only_problems_of_the_levels_are_made(name, levels):
    task = Source(name=name, demonstrations=100, pool=50, dev=20, test=30, levels=levels)
    train, test = map(list, MAKERS[name].load(task, 0))
    assert {made.level for made in train} == {made.level for made in test} == set(levels)
    assert [len(train), len(test)] == [170, 30]


def test_no_two_puzzles_of_an_evaluation_are_one_in_another_order():
    for side in sides("countdown", dev=300)[1:]:
        assert len({countdown.key(made) for made in side}) == len(side)


def test_more_problems_than_there_are_is_an_error_not_a_wait(monkeypatch):
    monkeypatch.setattr(generated, "PATIENCE", 500)

    def make(rng: random.Random) -> Problem:
        n = rng.randint(1, 20)
        return Problem(f"How many is {n}?", str(n))

    found = generated.distinct(make, generated.question, random.Random(0), generated.training())
    first = list(islice(found, 10))
    assert len({made.question for made in first}) == 10
    with pytest.raises(UserError, match=r"after 1\d problems 500 more were made, and none was new"):
        list(found)
