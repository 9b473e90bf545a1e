"""Completions of a batch of prompts, what they have in common computed once.

Each distinct prompt goes through the model once, and what all prompts of a batch begin with (a
system prompt, worked examples) once for all of them. Then a row is a distinct prefix: completions
of a prompt that have begun alike are decoded together until they part (a trie), and those that have
ended are dropped. Keys and values lie in buffers with room for more: a step writes its own, and
copies only rows that part. The sums are those of `generate`, taken in another order.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    PretrainedConfig,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer

from stages.core.decoding import decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

A_CALL = 256  # tokens that cost less than a further call of the model

Ids = list[list[int]]  # (batch, length)


def can_be_shared(config: PretrainedConfig) -> bool:
    """Whether a model's cache is keys and values of all tokens: no window, no state."""
    return {type(layer) for layer in DynamicCache(config=config).layers} == {DynamicLayer}


def choices(config: GenerationConfig, greedy: bool = False) -> LogitsProcessorList:
    """What becomes of the logits before a token is chosen, in transformers' own order."""
    made = LogitsProcessorList()
    if config.repetition_penalty not in (None, 1.0):
        made.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if greedy:
        return made
    if config.temperature not in (None, 1.0):
        made.append(TemperatureLogitsWarper(config.temperature))
    if config.top_k:
        made.append(TopKLogitsWarper(config.top_k))
    if config.top_p is not None and config.top_p < 1.0:
        made.append(TopPLogitsWarper(config.top_p))
    if config.min_p is not None:
        made.append(MinPLogitsWarper(config.min_p))
    return made


def completed(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Ids,
    config: GenerationConfig,
    limit: int,
    further: Sequence[LogitsProcessor] = (),
    stop: StoppingCriteria | None = None,
) -> Ids:
    """A completion of each prompt, as a generation configuration says; by `sampled` if it can be.

    Args:
        config: greedy also where its temperature is 0; the tokenizer's end token ends, too.
        limit: of new tokens.
        further: what is done to the logits after all else.
        stop: as in `sampled`.
    """
    ends = ends_of(config, tokenizer)
    greedy = not config.do_sample or config.temperature == 0
    if not can_be_shared(model.config):
        ids, mask = left_padded(prompts, tokenizer.pad_token_id, model.device)
        output = model.generate(
            ids, attention_mask=mask, generation_config=config, do_sample=not greedy,
            max_new_tokens=limit, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id,
            logits_processor=LogitsProcessorList(further),
            stopping_criteria=StoppingCriteriaList([stop] if stop else []),
        )  # fmt: skip
        return output[:, ids.shape[1] :].tolist()
    warp = LogitsProcessorList([*choices(config, greedy), *further])
    return sampled(model, prompts, tokenizer.pad_token_id, ends, warp, limit, greedy, stop)


def ends_of(config: GenerationConfig, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The tokens that end a completion: the model's and the tokenizer's."""
    own = config.eos_token_id
    return sorted({tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None})


@torch.no_grad()
def sampled(
    model: torch.nn.Module,
    prompts: Ids,
    padding: int,
    ends: list[int],
    warp: LogitsProcessorList,
    limit: int,
    greedy: bool = False,
    stop: StoppingCriteria | None = None,
) -> Ids:
    """A completion of each prompt: token ids, the ending one included, at most `limit`.

    Args:
        prompts: token ids; equal ones are computed once.
        padding: the token before a shorter prompt; a repetition penalty sees it, as in generate.
        ends: tokens that end a completion.
        warp: (rows, length), (rows, vocabulary) -> (rows, vocabulary).
        greedy: the likeliest token each time, not one that is drawn.
        stop: (rows, length) -> which rows' last token ends a completion as well, (rows,).
    """
    device = next(model.parameters()).device
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    places = {prompt: i for i, prompt in enumerate(distinct)}
    # A row of the cache is a prompt and what has been drawn after it; `row` is that of each
    # completion that has not ended.
    row = torch.tensor([places[tuple(prompt)] for prompt in prompts], device=device)
    running = torch.arange(len(prompts), device=device)
    drawn = torch.zeros(len(prompts), limit, dtype=torch.long, device=device)
    lengths = torch.full((len(prompts),), limit, device=device)
    ending = torch.tensor(ends, device=device)
    choose = likeliest if greedy else draw
    cache, ids, mask, new = begun(model, distinct, padding)
    decode = None
    for step in range(limit):
        place = positions(mask)[:, -new.shape[1] :]
        if decode:
            logits = decode(new, mask, place).float()
        else:
            logits = model(
                input_ids=new, attention_mask=mask, position_ids=place, past_key_values=cache,
                use_cache=True, logits_to_keep=1,
            ).logits[:, -1].float()  # fmt: skip
            decode = decoder(model, cache)
        token = choose(warp(ids, logits), row)
        drawn[running, step] = token
        ended = torch.isin(token, ending)
        if stop:
            ended |= stop(torch.cat([ids[row], token[:, None]], 1), None)
        lengths[running[ended]] = step + 1
        row, running, token = row[~ended], running[~ended], token[~ended]
        if not len(running):
            break
        vocabulary = logits.shape[1]
        branch, place = torch.unique(row * vocabulary + token, return_inverse=True)
        parent = branch // vocabulary
        slot = slots(parent)
        for layer in cache.layers:
            layer.rearrange(parent, slot)
        row, order = slot[place], slot.argsort()
        new, parent = (branch % vocabulary)[order, None], parent[order]
        ids = torch.cat([ids[parent], new], 1)
        mask = torch.cat([mask[parent], torch.ones_like(new)], 1)
    rows = zip(drawn.tolist(), lengths.tolist(), strict=True)
    return [tokens[:length] for tokens, length in rows]


def begun(
    model: torch.nn.Module, prompts: list[tuple[int, ...]], padding: int
) -> tuple[Cache, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What all prompts begin with, in a cache of a row each, where that pays.

    Returns:
        The cache; the prompts, padding between what they share and the rest; their mask, both
        (prompts, length); and what has yet to go through the model, (prompts, the rest's length).
    """
    device = next(model.parameters()).device
    shared = min(common(min(prompts), max(prompts)), min(map(len, prompts)) - 1)
    if shared * (len(prompts) - 1) <= A_CALL:
        shared = 0
    ids, mask = left_padded([prompt[shared:] for prompt in prompts], padding, device)
    cache, rest = Cache(layer_class_to_replicate=Roomy), ids
    if shared:
        start = torch.tensor([prompts[0][:shared]], device=device)
        model(input_ids=start, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(len(prompts))
        start = start.expand(len(prompts), -1)
        ids, mask = torch.cat([start, ids], 1), torch.cat([torch.ones_like(start), mask], 1)
    return cache, ids, mask, rest


class Roomy(DynamicLayer):
    """A layer's keys and values, (rows, heads, length, size), views of buffers with room for more.

    Under autocast they are kept in its dtype, to which attention would cast them all at each step.
    On a CPU oneDNN, which multiplies halves, copies a view that is not dense: there attention gets
    the buffers whole, and masks what is not filled yet.
    """

    ROOM = 16  # tokens

    rooms: list[torch.Tensor] | None = None

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *others: object, **named: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        where = keys.device.type
        if torch.is_autocast_enabled(where):
            dtype = torch.get_autocast_dtype(where)
            keys, values = keys.to(dtype), values.to(dtype)
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
            self.keys, self.values = keys[:, :, :0], values[:, :, :0]
        before, after = self.keys.shape[2], self.keys.shape[2] + keys.shape[2]
        if self.lacks(after):
            self.make_room(len(keys), after + self.ROOM)
        for room, new in zip(self.rooms, (keys, values), strict=True):
            room[: len(new), :, before:after] = new
        self.show(len(keys), after)
        if before and self.whole:
            return tuple(room[: len(keys)] for room in self.rooms)
        return self.keys, self.values

    @property
    def whole(self) -> bool:
        """Whether attention gets the whole buffers."""
        return self.dtype.itemsize == 2 and self.device.type == "cpu"

    def lacks(self, length: int) -> bool:
        return self.rooms is None or length > self.rooms[0].shape[2]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        length, offset = super().get_mask_sizes(query_length)
        if self.is_initialized and self.whole:
            length = length + self.ROOM if self.lacks(length) else self.rooms[0].shape[2]
        return length, offset

    def rearrange(self, parent: torch.Tensor, slot: torch.Tensor) -> None:
        """Row `slot[i]` becomes what `parent[i]` was; where they are the same, nothing moves."""
        rows, length = len(slot), self.keys.shape[2]
        if rows > len(self.rooms[0]):
            self.make_room(2 * rows, self.rooms[0].shape[2])
        moved = parent != slot
        for room in self.rooms:
            own = room[:, :, :length]
            own[slot[moved]] = own[parent[moved]]
        self.show(rows, length)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.rooms = None

    def make_room(self, rows: int, length: int) -> None:
        old = self.keys, self.values
        self.rooms = [kept.new_zeros(rows, kept.shape[1], length, kept.shape[3]) for kept in old]
        for room, kept in zip(self.rooms, old, strict=True):
            room[: len(kept), :, : kept.shape[2]] = kept

    def show(self, rows: int, length: int) -> None:
        self.keys, self.values = (room[:rows, :, :length] for room in self.rooms)


def slots(parent: torch.Tensor) -> torch.Tensor:
    """Where each branch goes so that little moves: the first of a parent stays, where that is among
    the rows that there will be; the others take what is free.

    Args:
        parent: the row that each branch goes on from, ascending.

    >>> slots(torch.tensor([0, 0, 2, 5])).tolist()  # 1, 3 and 4 have ended
    [0, 1, 2, 3]
    """
    first = torch.ones_like(parent, dtype=torch.bool)
    first[1:] = parent[1:] != parent[:-1]
    stays = first & (parent < len(parent))
    free = torch.ones_like(stays)
    free[parent[stays]] = False
    return parent.masked_scatter(~stays, free.nonzero())


def common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Tokens that both begin with."""
    apart = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(apart, min(len(one), len(other)))


def draw(scores: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """A token for each completion, from the scores of its row, by one uniform number each.

    Args:
        scores: logits, (rows, vocabulary).
        row: of each completion.
    """
    cumulative = scores.softmax(-1, dtype=torch.float64).cumsum(-1)[row]
    uniform = torch.rand(len(row), 1, dtype=torch.float64, device=scores.device)
    # the first token that reaches beyond it: one without probability never does
    found = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return found.squeeze(1).clamp(max=scores.shape[1] - 1)


def likeliest(scores: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """The likeliest token of each completion's row."""
    return scores.argmax(-1)[row]


def left_padded(
    prompts: list[tuple[int, ...]], padding: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and their mask, both (prompts, length of the longest)."""
    width = max(map(len, prompts))
    ahead = [width - len(prompt) for prompt in prompts]
    rows = zip(ahead, prompts, strict=True)
    ids = torch.tensor([[padding] * n + list(prompt) for n, prompt in rows], device=device)
    mask = (torch.arange(width) >= torch.tensor(ahead)[:, None]).long().to(device)
    return ids, mask


def positions(mask: torch.Tensor) -> torch.Tensor:
    """A token's place among those of its row that are not masked, from 0; (rows, length)."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def in_halves(generate: Callable[[Ids], Ids], prompts: Ids) -> Ids:
    """What `generate` gives for a batch; where memory does not suffice, for its halves.

    Raises:
        torch.OutOfMemoryError: not even a batch of one fits.
    """
    try:
        return generate(prompts)
    except torch.OutOfMemoryError:
        if len(prompts) == 1:
            raise
    torch.cuda.empty_cache()
    middle = len(prompts) // 2
    return in_halves(generate, prompts[:middle]) + in_halves(generate, prompts[middle:])


class BarredOpening(LogitsProcessor):
    """Bars a completion from opening with a given token sequence.

    Only the last token of the sequence is barred, and only while all tokens before it were just
    generated: a tokenizer that spells `<answer>` as several tokens can still begin `<think>`.

    Args:
        prompt_length: tokens before the completion begins (padded batch).
        opening: the barred sequence of token ids.
    """

    def __init__(self, prompt_length: int, opening: list[int]):
        self.prompt_length = prompt_length
        self.opening = opening

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """input_ids (batch, length), scores (batch, vocabulary) -> scores."""
        generated = input_ids[:, self.prompt_length :]
        if generated.shape[1] != len(self.opening) - 1:
            return scores
        prefix = torch.tensor(self.opening[:-1], device=generated.device, dtype=generated.dtype)
        about_to = (generated == prefix).all(dim=1)
        scores = scores.clone()
        scores[about_to, self.opening[-1]] = -torch.inf
        return scores
