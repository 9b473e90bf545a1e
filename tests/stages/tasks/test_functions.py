"""Generated programming problems: right by construction, which is checked here by running them."""

import random
from itertools import pairwise

from stages.core.code import run
from stages.core.params import Source
from stages.tasks import functions


def load(seed=0, **counts):
    counts = {"demonstrations": 300, "pool": 100, "test": 100, **counts}
    return [list(side) for side in functions.load(Source(name="functions", **counts), seed)]


def test_solutions_pass_their_tests_and_another_problems_do_not():
    made = [functions.problem(random.Random(seed)) for seed in range(40)]
    assert {v.score for v in run([(p.gold, p.tests) for p in made])} == {1.0}
    others = [(b.gold, a.tests) for a, b in pairwise(made)]
    scores = [v.score for v in run(others)]
    assert sum(score < 1 for score in scores) >= len(scores) - 2


def test_the_same_seed_gives_the_same_problems():
    assert load() == load() and load() != load(seed=1)


def test_no_step_sequence_is_on_both_sides():
    train, test = load()
    assert (len(train), len(test)) == (400, 100)
    assert not {p.working for p in train} & {p.working for p in test}
    assert len({p.question for p in train + test}) == 500
    assert {p.level for p in train} == {"1", "2", "3"}


def test_the_tokenizers_texts_are_no_test_problems():
    texts = list(functions.corpus(0, 50))
    _, test = load()
    assert len(texts) == 50 and not any(p.question in text for p in test for text in texts)
