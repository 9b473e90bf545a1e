"""Our lm-eval model answers as lm-eval's own does."""

import logging
from pathlib import Path

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from stages.core import lm, models
from stages.core import params as parameters
from stages.core.batches import Batches
from stages.core.lm import Model, length
from tests.known import KNOWN, LONG, SHORT

QUESTIONS = [SHORT, LONG, "Who wrote this?", "How many is 2+2?"]


@pytest.fixture
def pair(knowing) -> tuple[Model, HFLM]:
    loaded = parameters.load()
    folder = Path("models/grpo")
    ours = Model(folder, loaded, False, lambda done: None, Batches())
    theirs = HFLM(
        pretrained=models.load_model(folder, "eager", dtype="auto").eval(),
        tokenizer=models.load_tokenizer(folder), batch_size=2, add_bos_token=False,
    )  # fmt: skip
    return ours, theirs


def requests(model: HFLM, **options) -> list[Instance]:
    asked = {"until": [], "do_sample": False, "max_gen_toks": 30, **options}
    prompts = [model.apply_chat_template([{"role": "user", "content": q}]) for q in QUESTIONS]
    return [Instance("generate_until", {}, (prompt, asked), i) for i, prompt in enumerate(prompts)]


@pytest.mark.parametrize("options", [
    {},
    {"until": ["</think>", "1="]},
    {"until": ["</think>"], "temperature": 0.0},
    {"repetition_penalty": 1.5},
    {"no_repeat_ngram_size": 2},
    {"max_gen_toks": 4},
], ids=str)  # fmt: skip
def test_greedy_texts_are_lm_evals(pair, options):
    ours, theirs = pair
    texts = ours.generate_until(requests(ours, **options))
    assert texts == theirs.generate_until(requests(theirs, **options), disable_tqdm=True)
    assert len(set(texts)) > 1 and len(texts) == len(QUESTIONS)


def test_greedy_answers_are_given_without_a_warning_about_sampling(pair, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    texts = pair[0].generate_until(requests(pair[0], temperature=0.0))
    assert any(texts) and "may be ignored" not in caplog.text


def test_a_stop_string_ends_its_row_and_lm_eval_cuts_it_off(pair):
    ours, _ = pair
    texts = ours.generate_until(requests(ours, until=["</think>"]))
    assert texts[0] == KNOWN[SHORT][0].split("</think>")[0]
    batches = ours.batches.known.values()
    told = [ours.tokenizer.decode(ids) for batch in batches for ids in batch]
    assert sum(text.endswith("</think>") for text in told) >= 2


def test_what_the_sampler_does_not_know_is_left_to_generate(pair, monkeypatch):
    ours, theirs = pair
    monkeypatch.setattr(lm, "completed", None)
    ours.shares = False
    texts = ours.generate_until(requests(ours))
    assert texts == theirs.generate_until(requests(theirs), disable_tqdm=True)
    ours.shares, ours.batches, ours.done = True, Batches(), 0
    options = {"no_repeat_ngram_size": 2}
    assert ours.generate_until(requests(ours, **options)) == theirs.generate_until(
        requests(theirs, **options), disable_tqdm=True
    )


def test_samples_are_drawn_at_the_temperature(pair):
    ours, _ = pair
    cool, hot = (
        ours.generate_until(requests(ours, do_sample=True, temperature=t, top_k=0, top_p=1.0) * 8)
        for t in (0.01, 3.0)
    )
    assert set(cool[::4]) == {KNOWN[SHORT][0]} and len(set(hot)) > 20


@pytest.mark.parametrize(("temperature", "at_once"), [(5.0, 4), (9.0, 1)])
def test_entropies_are_those_of_each_completions_own_tokens(
    pair, temperature, at_once, monkeypatch
):
    ours, _ = pair
    prompts = [ours.apply_chat_template([{"role": "user", "content": q}]) for q in QUESTIONS]
    completions = [KNOWN[SHORT][0], KNOWN[LONG][0], "", "<think>1"]
    monkeypatch.setattr(lm, "LOGITS", at_once * 40 * len(ours.tokenizer))
    found = ours.entropies(prompts, completions, temperature)
    for prompt, completion, entropy in zip(prompts, completions, found, strict=True):
        head, tail = (ours.tokenizer(text, add_special_tokens=False)["input_ids"]
                      for text in (prompt, completion))  # fmt: skip
        with torch.no_grad():
            logits = ours.model(torch.tensor([head + tail])).logits[0, len(head) - 1 :]
        logps = (logits.double() / temperature).log_softmax(-1)
        assert logps.shape[0] == len(tail) + 1
        assert entropy == pytest.approx(-(logps.exp() * logps).sum(-1).mean().item(), abs=1e-4)
    assert len(set(found)) == 4 and min(found) > 0.01


def test_contexts_come_back_with_their_completions_padded(pair):
    ours, _ = pair
    pad = ours.tokenizer.pad_token_id
    whole = ours.after(torch.tensor([[1, 2], [3, 4]]), [[5], [6, 7, 8]])
    assert whole.tolist() == [[1, 2, 5, pad, pad], [3, 4, 6, 7, 8]]


@pytest.mark.parametrize(("tokens", "eos", "pad", "found"), [
    ([5, 6, 2, 0, 0], 2, 0, (2, True)),
    ([5, 6], 2, 2, (2, False)),
    ([5, 0, 0], 2, 0, (1, False)),
    ([2, 2], 2, 2, (0, True)),
])  # fmt: skip
def test_a_completions_length_is_without_padding_and_end(tokens, eos, pad, found):
    assert length(tokens, eos, pad) == found
