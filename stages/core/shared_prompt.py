"""A group's completions have one prompt: it is computed once, in sampling and in the loss.

TRL's trainer repeats the prompt for each completion of its group. Here

- sampling puts each distinct prompt through the model once, and what completions have in common
  (stages/core/sampling.py);
- the loss puts each distinct prompt, without its last token, through the model once; the
  completions, each after that token, attend to its keys and values, with gradients. Equal
  completions of a prompt are scored once. The head is TRL's own, and sees completions only;
- a group whose completions all earn the same goes forward only, where it has no gradient: without
  a KL penalty and an entropy bonus.

The rest (advantages, losses, clipping, reference model, metrics) is TRL's. The mathematics is the
same; sums are taken in another order. Positions are counted from a prompt's first token, as in
TRL's sampling; TRL's loss counts the padding, too, which is another model where positions are
absolute (GPT-2).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch.nn.functional import pad
from transformers import DynamicCache
from trl.models import unwrap_model_for_generation

from stages.core.sampling import A_CALL, can_be_shared, choices, positions, sampled

if TYPE_CHECKING:
    from trl import GRPOTrainer

log = logging.getLogger("stages")

PADDING = -1  # in place of a token id
SKIPPED = -100  # the label of a token that is not scored
# Operations of a backward pass that are worth two further calls of the model: on a CPU 2e9 gained
# nothing, 2e11 a sixth of a step (benchmarks/README.md).
WORTH = 2e10


class SharedPrompt:
    """Goes before TRL's GRPOTrainer among a trainer's bases."""

    shares_sampling = shares_scoring = False
    learns: torch.Tensor | None = None  # which rows of the loss have a gradient; None: all may

    def share(self, wanted: bool) -> None:
        """From here on, as far as this training allows; says what it leaves to TRL, and why."""
        if not wanted:
            return
        found = obstacles(self)
        for part, why in found.items():
            if why:
                log.info("grpo: a group's prompt is not shared in %s, as there is %s", part, why)
        sampling, scoring = found.values()
        self.shares_sampling, self.shares_scoring = not sampling, not scoring

    def _tokenize_prompts(self, prompts: list):
        """TRL's, of each distinct prompt of a batch once."""
        if not self.shares_sampling:
            return super()._tokenize_prompts(prompts)
        first = {str(prompt): prompt for prompt in prompts}
        ids, *rest = super()._tokenize_prompts(list(first.values()))
        known = dict(zip(first, ids, strict=True))
        return [known[str(prompt)] for prompt in prompts], *rest

    def _generate_single_turn(self, prompt_ids: list[list[int]], *others, **named):
        if not self.shares_sampling:
            return super()._generate_single_turn(prompt_ids, *others, **named)
        args = self.args
        with unwrap_model_for_generation(
            self.model_wrapped, self.accelerator,
            gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs,
        ) as whole, merged(whole) as model:  # fmt: skip
            ids = sampled(model, prompt_ids, self._tokenizer.pad_token_id, self.eos_token_ids,
                          choices(self.generation_config), self.max_completion_length)  # fmt: skip
        return ids, None

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None,
        compute_entropy=False, **others,
    ):  # fmt: skip
        if not self.shares_scoring or logits_to_keep + 2 > input_ids.shape[1]:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy,
                **others,
            )  # fmt: skip
        whole = self.accelerator.unwrap_model(model)
        rows = torch.arange(len(input_ids), device=input_ids.device)
        if self.learns is None:
            parts = [(part, model, nullcontext()) for part in rows.split(batch_size or len(rows))]
        else:
            parts = [(rows[self.learns], model, nullcontext()),
                     (rows[~self.learns], whole, torch.no_grad())]  # fmt: skip
        found = []
        with self.accelerator.autocast():
            for part, called, gradients in parts:
                with gradients:
                    ids, mask = input_ids[part], attention_mask[part]
                    found.append(scored(whole, called, ids, mask, logits_to_keep))
        back = torch.cat([part for part, _, _ in parts]).argsort()
        logps, entropies = (torch.cat(of)[back] if of[0] is not None else None
                            for of in zip(*found, strict=True))  # fmt: skip
        return logps, entropies if compute_entropy else None, None

    def _compute_loss(self, model, inputs):
        """TRL's. Each of its loss types multiplies by the advantage: where there is no KL penalty
        and no entropy bonus, a completion of a dead group has no gradient.
        """
        dead = inputs.get("dead")  # of stages/core/dynamic.py; none in an evaluation
        if dead is not None and not self.beta and not self._entropy_bonus_enabled:
            learns = ~dead
            learns[0] |= not learns.any()  # a backward pass and DDP want one
            spared = int(inputs["completion_mask"][~learns].sum())
            weights = sum(weight.numel() for weight in self.model.parameters())
            self.learns = learns if 4 * weights * spared > WORTH else None
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self.learns = None


def obstacles(trainer: "GRPOTrainer") -> dict[str, str | None]:
    """Why sampling, and why the loss, has to be left to TRL; None where it need not."""
    args = trainer.args
    model = trainer.accelerator.unwrap_model(trainer.model)
    dropout = any(isinstance(m, torch.nn.Dropout) and m.p for m in model.modules())
    common = {
        "dropout, which is drawn anew for each completion": dropout,
        "attention over a window, or none": not can_be_shared(model.config),
        f"weights spread over processes ({trainer.accelerator.distributed_type})":
            trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled,
    }  # fmt: skip
    sampling = common | {
        "vLLM": trainer.use_vllm,
        "continuous batching": trainer.use_transformers_continuous_batching,
        "generation_kwargs": bool(args.generation_kwargs),
        "cache_implementation": bool(args.cache_implementation),
    }
    scoring = common | {
        "activation_checkpointing": args.activation_checkpointing,
        "a mixture of experts and its balance": trainer.aux_loss_enabled,
    }
    parts = {"sampling": sampling, "the loss": scoring}
    return {part: next((why for why, so in of.items() if so), None) for part, of in parts.items()}


# --- the adapter, merged --------------------------------------------------------------------------


@contextmanager
def merged(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """On a CPU a LoRA model as it samples fastest: one float32 weight for a layer and its adapter.

    Afterwards the model has its own weights again, to the bit. On a GPU the copy would cost memory,
    and half precision would round small steps of the adapter away.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if not layers or not can_be_merged(model, layers):
        yield model
        return
    inner = model.get_base_model()
    kept = {weight: weight.data for weight in inner.parameters() if not weight.requires_grad}
    try:
        for weight, data in kept.items():
            weight.data = data.to(torch.float32, copy=True)
        for layer in layers:
            layer.merge()
        yield inner
    finally:
        for layer in layers:
            layer.merged_adapters.clear()
        for weight, data in kept.items():
            weight.data = data


def can_be_merged(model: torch.nn.Module, layers: list[LoraLayer]) -> bool:
    """Whether each adapter is a sum of two products (no DoRA), on a weight that nothing shares."""
    shared = model.get_input_embeddings().weight
    return next(model.parameters()).device.type == "cpu" and all(
        type(layer) is Linear
        and not layer.lora_variant
        and layer.get_base_layer().weight is not shared
        for layer in layers
    )


# --- the loss -------------------------------------------------------------------------------------


def scored(
    whole: torch.nn.Module,
    model: torch.nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    new: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probability and entropy (not of the reference model) of completions' tokens, (rows, new).

    Args:
        whole: the model itself.
        model: the same as it is called in training (DDP counts on one call a loss).
        input_ids: (rows, prompt + new), prompts left-padded, completions right-padded.
        attention_mask: of the same shape.
        new: tokens of the longest completion.
    """
    marked = torch.where(attention_mask.bool(), input_ids, PADDING)
    rows, place = torch.unique(marked, dim=0, return_inverse=True)
    prefixes, prefix = torch.unique(rows[:, : -new - 1], dim=0, return_inverse=True)
    cache = DynamicCache()
    whole(**given(prefixes), past_key_values=cache, use_cache=True, logits_to_keep=1)
    lengths, order = (rows[:, -new:] != PADDING).sum(1).sort()
    parts = order.split(alike(lengths.tolist()))
    logps, entropies = [], []
    for part in parts:
        width = int((rows[part, -new:] != PADDING).sum(1).max())
        call = model if part is parts[-1] else whole
        outputs = after(
            selected(cache, prefix[part]), call, rows[part, : width - new or None], width
        )
        logps.append(pad(outputs.log_probs, (0, new - width)))
        if outputs.entropy is not None:
            entropies.append(pad(outputs.entropy, (0, new - width)))
    back = order.argsort()[place]
    return torch.cat(logps)[back], torch.cat(entropies)[back] if entropies else None


def after(cache: DynamicCache, model: torch.nn.Module, rows: torch.Tensor, new: int):
    """TRL's scores of the last `new` tokens of rows of which the cache holds all but one more."""
    last = {name: values[:, -new - 1 :] for name, values in given(rows).items()}
    labels = last["input_ids"].masked_fill(rows[:, -new - 1 :] == PADDING, SKIPPED)
    labels[:, 0] = SKIPPED  # the prompt's last token
    last["attention_mask"] = given(rows)["attention_mask"]
    return model(**last, past_key_values=cache, labels=labels, fused_lm_head=True)


def given(rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """A model's inputs from token ids of which some are PADDING, each (rows, length)."""
    mask = (rows != PADDING).long()
    return {
        "input_ids": rows.clamp(min=0), "attention_mask": mask, "position_ids": positions(mask),
    }  # fmt: skip


def selected(cache: DynamicCache, rows: torch.Tensor) -> DynamicCache:
    """Copies of some rows of a cache; gradients flow back into it."""
    chosen = DynamicCache()
    for i, layer in enumerate(cache.layers):
        chosen.update(layer.keys[rows], layer.values[rows], i)
    return chosen


def alike(lengths: list[int]) -> list[int]:
    """Sizes of the parts into which rising lengths fall, so that little of a part is padding."""
    longest, n = lengths[-1], len(lengths)
    cut = max(range(1, n + 1), key=lambda i: i * (longest - lengths[i - 1]))
    if cut * (longest - lengths[cut - 1]) <= A_CALL:
        return [n]
    return alike(lengths[:cut]) + alike(lengths[cut:])
