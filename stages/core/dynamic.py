"""Dynamic sampling (DAPO, https://arxiv.org/abs/2503.14476, section 3.2): groups that teach nothing
give way to others.

A group whose completions all earn the same has no advantage and no gradient. TRL trains on such
groups; here further prompts are sampled in their place, for some rounds at the most. What is still
without a difference after the last round stays in the batch, which is thus always full.

The cost: every further group is sampled and judged like the batch's own, so that a batch may take
(1 + rounds) times the sampling. All of it counts in `tokens` and in the profiled seconds, and
stands among the rollouts.
"""

import random
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

NO_DIFFERENCE = 1e-8  # as in TRL's frac_reward_zero_std


class Group(NamedTuple):
    """The completions of one prompt."""

    rows: list[dict]  # the prompt's row, once a completion
    completion_ids: list[list[int]]
    logprobs: list | None  # of vLLM
    scores: "torch.Tensor"  # (completions, reward functions), NaN: not judged
    tokens: int  # of prompts and completions


class DynamicSampling:
    """Goes before TRL's GRPOTrainer, or a subclass of it, among a trainer's bases; one process.

    A batch is sampled and judged before TRL asks for it: TRL is then handed the groups that were
    kept, as if it had sampled them.
    """

    rounds = 0  # of further sampling for a batch, at the most; 0: TRL's own way
    batch: list[Group] | None = None  # what TRL is handed
    scores: "torch.Tensor"  # of the last batch, all processes'

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Any]:
        """TRL's, and which completions are of a dead group, (completions,). By the rewards: the
        mean of equal ones may be rounded, and leaves them advantages that are not quite 0.
        """
        import torch

        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        if self.rounds:
            prepared = self.resampled(inputs)
        else:
            prepared = super()._generate_and_score_completions(inputs)
        # TRL counts by the whole batch's spread where that scales the rewards
        dead = torch.tensor([self.dead(group) for group in self.scores.split(self.num_generations)])
        self._metrics["train"]["frac_reward_zero_std"][-1] = dead.double().mean().item()
        first = self.accelerator.process_index * len(inputs)  # scores are all processes'
        own = dead.repeat_interleave(self.num_generations)[first : first + len(inputs)]
        prepared["dead"] = own.to(prepared["advantages"].device)
        return prepared

    def resampled(self, inputs: list[dict]) -> dict[str, Any]:
        """What TRL makes of a batch whose dead groups have given way to others."""
        drawn, self.batch = self.fill(inputs)
        # TRL counts these once more
        self.state.num_input_tokens_seen -= sum(group.tokens for group in self.batch)
        rows = [row for group in self.batch for row in group.rows]
        prepared = super()._generate_and_score_completions(rows)
        self.batch = None
        self.log_drawn(drawn)
        return prepared

    def _generate_single_turn(self, *arguments, **named):
        if self.batch is None:
            return super()._generate_single_turn(*arguments, **named)
        ids = [one for group in self.batch for one in group.completion_ids]
        if self.batch[0].logprobs is None:
            return ids, None
        return ids, [one for group in self.batch for one in group.logprobs]

    def _calculate_rewards(self, *arguments, **named):
        import torch

        if self.batch is None:
            self.scores = super()._calculate_rewards(*arguments, **named)
        else:
            self.scores = torch.cat([group.scores for group in self.batch])
        return self.scores

    def fill(self, inputs: list[dict]) -> tuple[list[Group], list[Group]]:
        """All groups that were sampled for a batch, and those of them that make it."""
        drawn = self.sample(inputs)
        batch, spare, replaced = list(drawn), self.spare(inputs), 0
        for _ in range(self.rounds):
            places = [i for i, group in enumerate(batch) if self.dead(group.scores)]
            further = list(islice(spare, len(places)))
            if not further:
                break
            found = self.sample([row for row in further for _ in range(self.num_generations)])
            drawn += found
            alive = [group for group in found if not self.dead(group.scores)]
            for place, group in zip(places, alive, strict=False):
                batch[place] = group
            replaced += len(alive)
        self._log_metric("resampled_groups", replaced)
        self._log_metric("further_groups", len(drawn) - len(batch))
        self._pending_extra_logs.clear()  # a row of TRL's table is one of the batch's
        return drawn, batch

    def sample(self, rows: list[dict]) -> list[Group]:
        """Groups of completions, judged; their lengths enter the metrics with the batch, if so."""
        metrics = {name: list(values) for name, values in self._metrics["train"].items()}
        prompts = [row["prompt"] for row in rows]
        prompt_ids, ids, _, completions, logprobs, *_ = self._generate(prompts)
        self._metrics["train"] = defaultdict(list, metrics)
        scores = self._calculate_rewards(rows, prompts, completions, ids)
        size = self.num_generations
        parts = [slice(first, first + size) for first in range(0, len(rows), size)]
        return [
            Group(rows[part], ids[part], logprobs and logprobs[part], scores[part],
                  sum(map(len, prompt_ids[part])) + sum(map(len, ids[part])))
            for part in parts
        ]  # fmt: skip

    def dead(self, scores: "torch.Tensor") -> bool:
        """Whether all of a group's completions that could be judged earn the same."""
        weighted = scores * self.reward_weights.to(scores.device)
        if self.multi_objective_aggregation == "sum_then_normalize":
            judged = ~weighted.isnan().all(dim=1)
            weighted = weighted.nansum(dim=1, keepdim=True)[judged]
        columns = [column[~column.isnan()] for column in weighted.T]
        return not any(len(c) and c.max() - c.min() > NO_DIFFERENCE for c in columns)

    def spare(self, inputs: list[dict]) -> Iterator[dict]:
        """Further prompts for a batch, the same whenever it is sampled again after a resume.

        Without a curriculum a shuffle of the batch's own, else those that come next in its order.
        They keep their own turn.
        """
        accumulation = self.args.gradient_accumulation_steps
        done = self.state.global_step * accumulation + self._step % accumulation
        number = done // (self.args.steps_per_generation * self.num_iterations)
        rows = len(self.train_dataset)
        if self.shuffle_dataset:
            generator = random.Random(f"{self.args.seed} {number}")
            order = generator.sample(range(rows), rows)
        else:
            prompts = len(inputs) // self.num_generations
            first = (number % (rows // prompts) + 1) * prompts
            order = [(first + i) % rows for i in range(rows)]
        taken = [row["prompt"] for row in inputs[:: self.num_generations]]
        further = (self.train_dataset[index] for index in order)
        return (row for row in further if row["prompt"] not in taken)

    def log_drawn(self, drawn: list[Group]) -> None:
        """The rewards logged are those of all that was sampled: the batch's own are a choice."""
        import torch

        metrics = self._metrics["train"]
        scores = torch.cat([group.scores for group in drawn])
        for i, name in enumerate(self.reward_func_names):
            metrics[f"rewards/{name}/mean"][-1] = scores[:, i].nanmean().item()
        rewards = (scores * self.reward_weights.to(scores.device)).nansum(dim=1)
        metrics["reward"][-1] = rewards[~scores.isnan().all(dim=1)].mean().item()
