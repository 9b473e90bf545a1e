import torch

from stages.core.generation import BarredOpening


def barred(generated: list[list[int]], opening: list[int]) -> torch.Tensor:
    """Which of 6 tokens are barred next, after a prompt of two tokens."""
    ids = torch.tensor([[0, 0, *row] for row in generated])
    scores = BarredOpening(2, opening)(ids, torch.zeros(len(generated), 6))
    return scores.isinf()


def test_a_single_token_is_barred_first_and_only_first():
    assert barred([[]], [4]).nonzero().tolist() == [[0, 4]]
    assert not barred([[1]], [4]).any()


def test_of_several_tokens_only_the_last_is_barred_and_only_after_the_others():
    assert not barred([[], []], [3, 4]).any()
    assert barred([[3], [2]], [3, 4]).nonzero().tolist() == [[0, 4]]
    assert not barred([[3, 1], [2, 3]], [3, 4]).any()
