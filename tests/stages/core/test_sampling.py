"""Completions are those of `generate`, and what prompts and completions share is computed once."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    Cache,
    GenerationConfig,
    LogitsProcessorList,
    MistralConfig,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    TemperatureLogitsWarper,
)

from stages.core import sampling
from stages.core.sampling import (
    Roomy,
    can_be_shared,
    choices,
    common,
    draw,
    in_halves,
    positions,
    sampled,
    slots,
)
from tests.architectures import ARCHITECTURES, END, EVERY, PROMPTS, SMALL, made

PLAIN = LogitsProcessorList()


@EVERY
def test_the_likeliest_text_is_that_of_generate(architecture):
    model = made(architecture)
    prompts = [prompt for prompt in PROMPTS for _ in range(3)]
    found = sampled(model, prompts, 0, [END], PLAIN, 12, greedy=True)
    for prompt, completion in zip(prompts, found, strict=True):
        told = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False, max_new_tokens=12, eos_token_id=END, pad_token_id=0,
        )  # fmt: skip
        assert completion == told[0, len(prompt) :].tolist()


def test_a_repetition_penalty_is_that_of_generate():
    model = made("llama")
    warp = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.8)])
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in PROMPTS])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in PROMPTS])
    told = model.generate(ids, attention_mask=mask, do_sample=False, repetition_penalty=1.8,
                          max_new_tokens=12, eos_token_id=END, pad_token_id=0)  # fmt: skip
    found = sampled(model, PROMPTS, 0, [END], warp, 12, greedy=True)
    for row, completion in zip(told, found, strict=True):
        assert completion == row[width : width + len(completion)].tolist()
        assert completion[-1] == END or len(completion) == 12


def test_completions_are_drawn_as_often_as_the_model_says():
    """Two tokens of a vocabulary of 9, each pair's frequency against its exact probability."""
    model, n, heat = made("llama", size=9), 20_000, 1.5
    warp = LogitsProcessorList([TemperatureLogitsWarper(heat)])
    torch.manual_seed(0)
    drawn = Counter(map(tuple, sampled(model, [[1, 2, 3]] * n, 0, [END], warp, 2)))

    def after(ids: list[int]) -> torch.Tensor:
        return (model(torch.tensor([ids])).logits[0, -1] / heat).softmax(-1)

    first = after([1, 2, 3])
    expected = {(END,): first[END].item()}
    for a in range(9):
        if a != END:
            second = after([1, 2, 3, a])
            expected |= {(a, b): (first[a] * second[b]).item() for b in range(9)}
    assert sum(expected.values()) == pytest.approx(1, abs=1e-5)
    chi = sum((drawn[pair] - n * p) ** 2 / (n * p) for pair, p in expected.items())
    assert chi < 120, "72 degrees of freedom: 3 in 10,000 are above"


def test_each_completion_has_a_number_of_its_own():
    torch.manual_seed(0)
    drawn = sampled(made("llama"), [[1, 2]] * 200, 0, [END], LogitsProcessorList(), 20)
    assert len(set(map(tuple, drawn))) > 100
    assert all(END not in one[:-1] for one in drawn)
    assert {len(one) for one in drawn if one[-1] != END} <= {20}


def test_prefixes_are_computed_once():
    model, rows = made("llama"), []
    model.model.register_forward_pre_hook(
        lambda _, __, given: rows.append(len(given["input_ids"])), with_kwargs=True
    )
    sampled(
        model, [prompt for prompt in PROMPTS for _ in range(8)], 0, [END], PLAIN, 5, greedy=True
    )
    assert rows == [3] * 5, "a group that says the same is one row"


PARENTS = st.lists(st.integers(0, 9), min_size=1, max_size=20).map(sorted)


@given(PARENTS)
def test_branches_fill_the_first_slots_and_nothing_is_overwritten_that_is_needed(parents):
    parent = torch.tensor(parents)
    slot = slots(parent)
    assert sorted(slot.tolist()) == list(range(len(parents)))
    moved = slot != parent
    assert not set(slot[moved].tolist()) & set(parent.tolist()), "a row is copied from where it was"
    assert set(parents) & set(range(len(parents))) <= set(slot[~moved].tolist())


DTYPES = st.sampled_from([torch.float32, torch.bfloat16])


@given(st.lists(st.tuples(PARENTS, st.integers(1, 40)), min_size=1, max_size=6), DTYPES)
def test_a_cache_with_room_holds_what_one_without_would(steps, dtype):
    kept, rows = Roomy(), 10
    keys = values = torch.zeros(rows, 2, 0, 3, dtype=dtype)
    for parents, length in steps:
        new = torch.rand(2, rows, 2, length, 3).to(dtype)
        keys, values = torch.cat([keys, new[0]], 2), torch.cat([values, new[1]], 2)
        announced, offset = kept.get_mask_sizes(length)
        for found, told in zip(kept.update(*new), (keys, values), strict=True):
            assert found.shape[2] == announced and not offset
            assert torch.equal(found[:, :, : told.shape[2]], told)
            assert not found[:, :, told.shape[2] :].any(), "masked, and no NaN times nothing"
            assert dtype == torch.float32 or told.shape[2] == length or found.is_contiguous()
        parent = torch.tensor(parents).clamp(max=rows - 1)
        slot, rows = slots(parent), len(parents)
        kept.rearrange(parent, slot)
        order = parent[slot.argsort()]
        keys, values = keys[order], values[order]
    assert torch.equal(kept.keys, keys) and torch.equal(kept.values, values)


def test_a_step_writes_into_the_room_that_there_is():
    kept = Roomy()
    kept.update(*torch.rand(2, 4, 2, 5, 3))
    before = [room.data_ptr() for room in kept.rooms]
    for _ in range(Roomy.ROOM):
        kept.update(*torch.rand(2, 4, 2, 1, 3))
    assert [room.data_ptr() for room in kept.rooms] == before
    kept.update(*torch.rand(2, 4, 2, 1, 3))
    assert kept.get_seq_length() == 5 + Roomy.ROOM + 1


def test_under_autocast_the_cache_is_of_its_dtype():
    kept = Roomy()
    with torch.autocast("cpu", torch.bfloat16):
        keys, values = kept.update(*torch.rand(2, 4, 2, 5, 3))
    assert keys.dtype == values.dtype == torch.bfloat16


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@EVERY
def test_room_that_is_not_filled_yet_is_not_attended_to(architecture, attention):
    model = made(architecture)
    model.set_attn_implementation(attention)
    model.to(torch.bfloat16)
    ids = torch.randint(8, 30, (3, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    with torch.no_grad():
        told = model(ids, attention_mask=mask, position_ids=positions(mask)).logits
        cache, found = Cache(layer_class_to_replicate=Roomy), []
        for before, after in pairwise([0, 5, 6, *range(7, 41)]):
            found.append(model(
                ids[:, before:after], attention_mask=mask[:, :after], past_key_values=cache,
                position_ids=positions(mask[:, :after])[:, before:], use_cache=True,
            ).logits)  # fmt: skip
    assert (torch.cat(found, 1) - told)[mask.bool()].abs().max() < 0.05 * told.abs().max()


@given(st.integers(0, 2**32), st.integers(1, 6))
def test_what_has_no_probability_is_never_drawn(seed, rows):
    torch.manual_seed(seed)
    scores = torch.randn(rows, 11)
    barred = torch.rand(rows, 11) < 0.5
    barred[:, 4] = False
    row = torch.randint(rows, (50,))
    token = draw(scores.masked_fill(barred, -torch.inf), row)
    assert not barred[row, token].any()


START = list(range(8, 30))  # what all prompts begin with


@EVERY
def test_what_all_prompts_begin_with_is_computed_once_and_changes_nothing(
    architecture, monkeypatch
):
    model, prompts = made(architecture), [START + prompt for prompt in PROMPTS]
    apart = [sampled(model, [p], 0, [END], PLAIN, 12, greedy=True)[0] for p in prompts]
    monkeypatch.setattr(sampling, "A_CALL", 20)
    shapes = []
    model.register_forward_pre_hook(
        lambda _, __, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    assert sampled(model, prompts, 0, [END], PLAIN, 12, greedy=True) == apart
    assert shapes[:3] == [(1, len(START)), (3, 6), (3, 1)]


def test_the_start_of_prompts_that_hold_one_another_leaves_each_a_token(monkeypatch):
    monkeypatch.setattr(sampling, "A_CALL", 0)
    model, prompts = made("llama"), [START[:5], START[:9], START[:5]]
    apart = [sampled(model, [p], 0, [END], PLAIN, 6, greedy=True)[0] for p in prompts]
    assert sampled(model, prompts, 0, [END], PLAIN, 6, greedy=True) == apart


@given(st.lists(st.lists(st.integers(0, 2), max_size=5).map(tuple), min_size=1, max_size=5))
def test_the_first_and_last_of_sorted_prompts_share_what_all_share(prompts):
    shared = common(min(prompts), max(prompts))
    assert len({prompt[:shared] for prompt in prompts}) == 1
    assert any(len(prompt) == shared for prompt in prompts) or (
        len({prompt[: shared + 1] for prompt in prompts}) > 1
    )


def test_of_tokens_that_are_as_likely_the_first_is_taken_as_in_generate():
    scores = torch.tensor([[0.0, 3.0, 3.0, 1.0]])
    assert sampling.likeliest(scores, torch.tensor([0, 0])).tolist() == [1, 1]


class After(StoppingCriteria):
    """Ends a row after a token."""

    def __init__(self, token: int):
        self.token = token

    def __call__(self, input_ids, scores, **_):
        return input_ids[:, -1] == self.token


def test_what_stops_a_row_ends_it_and_no_other():
    model = made("llama")
    whole = sampled(model, PROMPTS, 0, [END], PLAIN, 12, greedy=True)
    token = whole[0][3]
    stopped = sampled(model, PROMPTS, 0, [END], PLAIN, 12, greedy=True, stop=After(token))
    for before, after in zip(whole, stopped, strict=True):
        length = before.index(token) + 1 if token in before else len(before)
        assert after == before[:length]


def test_the_choices_are_those_of_transformers():
    config = GenerationConfig(
        do_sample=True, temperature=0.7, top_k=5, top_p=0.9, min_p=0.05, repetition_penalty=1.3
    )
    theirs = made("llama")._get_logits_processor(config, input_ids_seq_length=3)
    ids, scores = torch.tensor([[1, 2, 3]]), torch.randn(1, 40)
    assert [type(one) for one in choices(config)] == [type(one) for one in theirs]
    assert torch.equal(choices(config)(ids, scores), theirs(ids, scores))
    assert not choices(GenerationConfig(temperature=1.0, top_k=0, top_p=1.0))


def test_attention_over_a_window_cannot_be_shared():
    assert all(can_be_shared(make(40)) for make in ARCHITECTURES.values())
    assert not can_be_shared(MistralConfig(vocab_size=40, **SMALL, sliding_window=4))


def counting(limit: int, calls: list[int]):
    def generate(prompts):
        calls.append(len(prompts))
        if len(prompts) > limit:
            raise torch.OutOfMemoryError
        return [[7] * len(prompt) for prompt in prompts]

    return generate


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
def test_a_batch_that_does_not_fit_is_halved_in_order(limit):
    calls: list[int] = []
    out = in_halves(counting(limit, calls), [[0] * n for n in range(1, 6)])
    assert out == [[7] * n for n in range(1, 6)]
    assert sum(size for size in calls if size <= limit) == 5


def test_a_single_row_that_does_not_fit_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        in_halves(counting(0, []), [[1]] * 3)
