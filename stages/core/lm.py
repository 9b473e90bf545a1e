"""lm-eval's Hugging Face model, generating as this project does.

lm-eval's own prompts, order, stop sequences and post-processing stay; what it asks of `generate`
comes from stages/core/sampling.py, batch by batch, and is kept (stages/core/batches.py).
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from lm_eval.models.huggingface import HFLM
from torch.distributions import Categorical
from transformers import LogitsProcessorList, StopStringCriteria

from stages.core import launch, models
from stages.core.batches import Batches, seed_at
from stages.core.grade import grades
from stages.core.params import Params
from stages.core.sampling import (
    BarredOpening,
    Ids,
    can_be_shared,
    completed,
    in_halves,
    left_padded,
    positions,
)

Rates = list[float]

LOGITS = 2**26  # held at once
UNDERSTOOD = {"do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"}


class Model(HFLM):
    """lm-eval's model of a folder.

    Args:
        folder: of the model.
        params: for the format, the attention, the seed and the batch size.
        bar_answer: whether a completion may not open with the answer.
        shown: told how many prompts are done.
        batches: known ones, and where new ones are kept.
    """

    def __init__(
        self,
        folder: Path,
        params: Params,
        bar_answer: bool,
        shown: Callable[[int], None],
        batches: Batches,
    ):
        tokenizer = models.load_tokenizer(folder)
        model = models.load_model(folder, params.base.attn_implementation, dtype="auto").eval()
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=params.evaluate.at_once,
            add_bos_token=False,  # the chat template writes it where the model has one (trl#1400)
        )
        self.fmt, self.seeded_by = params.format.tags, params.seed
        self.opening = tokenizer(self.fmt.opening, add_special_tokens=False)["input_ids"]
        self.bar_answer, self.shown, self.batches = bar_answer, shown, batches
        self.shares = can_be_shared(model.config)
        self.done = self.turn = 0
        self.sharing = False
        self.lengths: dict[str, tuple[int, bool]] = {}

    def generate_until(self, requests, disable_tqdm=False):
        if launch.world() > 1:
            self.share(requests)
            if not launch.first():
                return [""] * len(requests)
        texts = super().generate_until(requests, disable_tqdm=True)  # `shown` instead
        # code runs side by side here; lm-eval would have each judged by itself
        at = [i for i, request in enumerate(requests) if request.doc.get("tests")]
        grades([texts[i] for i in at], [requests[i].doc for i in at], self.fmt)
        return texts

    def share(self, requests):
        """Each process generates its share of the batches; then each knows all of them."""
        before, self.sharing, self.turn = self.done, True, 0
        super().generate_until(requests, disable_tqdm=True)
        self.done, self.sharing = before, False
        self.batches.exchange()

    def _model_generate(self, context, max_length, stop, attention_mask=None, **options):
        if self.sharing:
            self.turn += 1
            if (self.turn - 1) % launch.world() != launch.rank():
                self.done += len(context)
                return context
        rows = zip(context, attention_mask.bool(), strict=True)
        prompts = [ids[own].tolist() for ids, own in rows]
        limit = max_length - context.shape[1]

        def generate(prompts: Ids) -> Ids:
            if self.shares and not options.keys() - UNDERSTOOD:
                return self.at_once(prompts, limit, stop, options)
            return self.by_lm_eval(prompts, limit, stop, options)

        def seeded() -> Ids:
            torch.manual_seed(seed_at(self.seeded_by, self.done))
            return in_halves(generate, prompts)

        completions = self.batches.get(self.done, prompts, seeded)
        self.done += len(context)
        self.shown(self.done)
        return self.after(context, completions)

    def at_once(self, prompts: Ids, limit: int, stop: list[str], options: dict) -> Ids:
        config = copy.copy(self.model.generation_config)
        for name, value in options.items():
            setattr(config, name, value)  # `update` warns of a temperature that is not used
        barred = BarredOpening(max(map(len, prompts)), self.opening)
        end = self.tokenizer.decode(self.eot_token_id)  # which lm-eval adds
        strings = [text for text in stop if text != end]
        return completed(
            self.model, self.tokenizer, prompts, config, limit, [barred] * self.bar_answer,
            StopStringCriteria(self.tokenizer, strings) if strings else None,
        )  # fmt: skip

    def by_lm_eval(self, prompts: Ids, limit: int, stop: list[str], options: dict) -> Ids:
        """From transformers' `generate`, as lm-eval calls it."""
        context, mask = left_padded(prompts, self.tokenizer.pad_token_id, self.device)
        width = context.shape[1]
        if self.bar_answer:
            barred = LogitsProcessorList([BarredOpening(width, self.opening)])
            options = {**options, "logits_processor": barred}
        whole = super()._model_generate(
            context, width + limit, stop, attention_mask=mask, **options
        )
        return whole[:, width:].tolist()

    @torch.no_grad()
    def entropies(self, prompts: list[str], completions: list[str], temperature: float) -> Rates:
        """Mean entropy in nats of the next token along each completion, its end included.

        Completions are tokenized anew, which may cut them otherwise than they were sampled.

        Args:
            prompts: as rendered by the chat template.
            temperature: of the sampling; the distribution is the one that was sampled from.
        """
        encode = partial(self.tokenizer, add_special_tokens=False)
        heads, tails = encode(prompts)["input_ids"], encode(completions)["input_ids"]
        whole = [head + tail for head, tail in zip(heads, tails, strict=True)]
        rows = [ids[-self.max_length :] for ids in whole]
        kept = [min(len(tail) + 1, self.max_length) for tail in tails]
        fitting = LOGITS // (max(kept) * len(self.tokenizer))
        at_once = max(1, min(fitting, self.batch_size))
        found: Rates = []
        for at in range(0, len(rows), at_once):
            here, new = rows[at : at + at_once], kept[at : at + at_once]
            ids, mask = left_padded(here, self.tokenizer.pad_token_id, self.device)
            logits = self.model(
                input_ids=ids, attention_mask=mask, position_ids=positions(mask),
                logits_to_keep=max(new),
            ).logits  # fmt: skip
            each = Categorical(logits=logits.float() / temperature).entropy()
            found += [own[-n:].mean().item() for own, n in zip(each, new, strict=True)]
        return found

    def after(self, context: torch.Tensor, completions: Ids) -> torch.Tensor:
        """Contexts and their completions, padded: (batch, length)."""
        width, pad = max(map(len, completions)), self.tokenizer.pad_token_id
        new = [ids + [pad] * (width - len(ids)) for ids in completions]
        return torch.cat([context, torch.tensor(new, device=context.device)], 1)

    def tok_decode(self, tokens, skip_special_tokens=True):
        text = super().tok_decode(tokens, skip_special_tokens)
        if isinstance(tokens, list):
            eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
            self.lengths[text] = length(tokens, eos, pad)
        return text


def length(tokens: Sequence[int], eos: int, pad: int) -> tuple[int, bool]:
    """Generated tokens without padding, and whether the end token is among them.

    >>> length([5, 6, 2, 0, 0], eos=2, pad=0), length([5, 6], eos=2, pad=2)
    ((2, True), (2, False))
    """
    ended = eos in tokens
    own = list(tokens[: tokens.index(eos)] if ended else tokens)
    return (len(own) if ended or pad not in own else own.index(pad)), ended
