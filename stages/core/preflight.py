"""The preflight of GRPO: whether it can work at all, and what it will cost, before the first step.

A few dozen prompts are sampled from the SFT model as training would (stages/core/probe.py). Here
is what follows from that, as pure functions: a rule takes the figures and the section of
params.yaml, and returns a finding or None. A `stop` leaves nothing to be learned. The rules and
their remedies as a table: docs/troubleshooting.md.
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import isfinite
from typing import Literal, NamedTuple

from stages.core.doctor import ACCURACY_TARGET, DEAD, HARDER, TRUNCATED, Finding, to_differ
from stages.core.last_run import duration
from stages.core.params import Grpo

RUNS_ON = 0.1  # share of completions that give their answer and do not end
SAME = 1e-8  # rewards as near as that are the same to TRL
LONGEST = 16  # prompts by characters, of which the longest in tokens is taken

MORE_SFT = "train SFT longer (sft.max_steps)"


class Sample(NamedTuple):
    """One completion. `correct` and `reward` are None where nothing could judge it."""

    correct: bool | None
    reward: float | None
    ended: bool  # by an end token, within max_completion_length
    answered: bool  # an answer stands where the format wants it
    tokens: int


class Figures(NamedTuple):
    """Shares are of all completions; `dead_groups` is one of groups."""

    prompts: int
    completions: int
    pass_rate: float
    dead_groups: float  # without any difference in reward
    truncated: float  # without an end token, as TRL counts them
    missing_eos: float  # of these, those that had given their answer: they run on
    unjudged: float
    completion_length: float


class Costs(NamedTuple):
    """What was measured; of sampling, with all processes side by side."""

    tokens_per_second: float  # of sampling, at training's batch
    sampling_seconds: float  # a completion, judging included
    forward_seconds: float  # of a micro-batch, all of it the longest prompt at full length
    update_seconds: float  # the same, forward and backward
    filled: float  # share of that length that a sampled batch, padded to its longest, has
    memory: int  # bytes at its peak, with what the optimizer will hold
    of: Literal["memory", "GPU memory"]


Rule = Callable[[Figures, Grpo], Finding | None]


def figures(groups: list[list[Sample]]) -> Figures:
    """The figures of at least one group of samples, each group of one prompt."""
    samples = [sample for group in groups for sample in group]

    def share(picked: Iterable[bool]) -> float:
        return sum(picked) / len(samples)

    return Figures(
        prompts=len(groups),
        completions=len(samples),
        pass_rate=share(bool(s.correct) for s in samples),
        dead_groups=sum(not differs(group) for group in groups) / len(groups),
        truncated=share(not s.ended for s in samples),
        missing_eos=share(s.answered and not s.ended for s in samples),
        unjudged=share(not judged(s) for s in samples),
        completion_length=sum(s.tokens for s in samples) / len(samples),
    )


def judged(sample: Sample) -> bool:
    return sample.reward is not None and isfinite(sample.reward)


def differs(group: list[Sample]) -> bool:
    """Is there an advantage in this group?"""
    rewards = [sample.reward for sample in group if judged(sample)]
    return bool(rewards) and max(rewards) - min(rewards) > SAME


def examine(figures: Figures, grpo: Grpo) -> list[Finding]:
    """What the rules find; under `grpo.preflight: warn` nothing stops."""
    found = [finding for rule in RULES if (finding := rule(figures, grpo))]
    if grpo.preflight == "refuse":
        return found
    return [replace(f, severity="warning") if f.severity == "stop" else f for f in found]


# --- the rules ------------------------------------------------------------------------------------


def all_cut_off(figures: Figures, grpo: Grpo) -> Finding | None:
    if figures.truncated < 1:
        return None
    what = (f"all {figures.completions} completions are cut off at grpo.max_completion_length "
            f"{grpo.max_completion_length}")  # fmt: skip
    if figures.missing_eos > 1 / 2:
        what += f", {figures.missing_eos:.0%} of them after their answer"
        return stop(all_cut_off, what, to_end())
    return stop(
        all_cut_off, what,
        f"raise grpo.max_completion_length to {2 * grpo.max_completion_length} or more; if a "
        f"longer one is never reached either, {MORE_SFT}",
    )  # fmt: skip


def none_right(figures: Figures, grpo: Grpo) -> Finding | None:
    """Where everything is cut off, or nothing can be judged, that is why."""
    if figures.pass_rate > 0 or figures.truncated == 1 or figures.unjudged == 1:
        return None
    what = f"not one of {figures.completions} completions is right"
    remedy = (
        f"{MORE_SFT} or on more (task.demonstrations), easier problems (task.levels); if right "
        "ones are judged wrong, mend the reward or the format (python -m stages.rewards score, "
        "data/audit.json)"
    )
    if figures.truncated > TRUNCATED:
        remedy = (f"raise grpo.max_completion_length (now {grpo.max_completion_length}: "
                  f"{figures.truncated:.0%} are cut off); {remedy}")  # fmt: skip
    if figures.dead_groups == 1:
        return stop(none_right, f"{what}, and no group differs in reward", remedy)
    return warning(none_right, f"{what}: what is learned is other rewards alone", remedy)


def all_right(figures: Figures, grpo: Grpo) -> Finding | None:
    if figures.pass_rate < 1 or figures.truncated == 1 or figures.unjudged == 1:
        return None
    what = f"all {figures.completions} completions are right"
    if figures.dead_groups == 1:
        return stop(all_right, f"{what}, and no group differs in reward",
                    f"{HARDER}; or leave GRPO out: the SFT model knows these")  # fmt: skip
    return warning(all_right, f"{what}: what is learned is other rewards alone", HARDER)


def no_difference(figures: Figures, grpo: Grpo) -> Finding | None:
    """For another reason than those above."""
    if figures.dead_groups < 1 or figures.truncated == 1:
        return None
    if figures.unjudged == 1:
        return stop(no_difference, "no reward can judge any of the completions",
                    "find the one that returns None or inf for everything (grpo.rewards; python "
                    "-m stages.rewards score)")  # fmt: skip
    if figures.pass_rate in (0, 1):
        return None
    return stop(
        no_difference,
        f"{figures.pass_rate:.0%} are right, and yet within a prompt's {grpo.group_size} "
        "completions all earn the same",
        f"if the right ones earn no more, pay them (grpo.rewards; python -m stages.rewards score, "
        f"data/audit.json); else {to_differ(grpo)}",
    )


def few_differ(figures: Figures, grpo: Grpo) -> Finding | None:
    if not DEAD < figures.dead_groups < 1:
        return None
    what = f"{figures.dead_groups:.0%} of groups teach nothing: all their completions earn the same"
    if figures.pass_rate > ACCURACY_TARGET:
        return warning(few_differ, f"{what}, as most are right", HARDER)
    return warning(few_differ, what, to_differ(grpo))


def many_cut_off(figures: Figures, grpo: Grpo) -> Finding | None:
    if not TRUNCATED < figures.truncated < 1:
        return None
    limit = grpo.max_completion_length
    return warning(
        many_cut_off, f"{figures.truncated:.0%} of completions are cut off at "
        f"grpo.max_completion_length {limit}", f"raise it to {2 * limit}",
    )  # fmt: skip


def runs_on(figures: Figures, grpo: Grpo) -> Finding | None:
    if figures.missing_eos <= RUNS_ON or figures.truncated == 1:
        return None
    what = f"{figures.missing_eos:.0%} of completions give their answer and do not end"
    return warning(runs_on, what, to_end())


def to_end() -> str:
    return (f"{MORE_SFT}, on demonstrations that end in the tokenizer's end token (the chat "
            "template must write the one that the model's generation_config.json names), or pay "
            "for length (the overlong reward, docs/rewards.md)")  # fmt: skip


RULES: tuple[Rule, ...] = (
    all_cut_off, none_right, all_right, no_difference, few_differ, many_cut_off, runs_on,
)  # fmt: skip


def stop(rule: Rule, what: str, remedy: str) -> Finding:
    return Finding(rule.__name__, what, remedy, "stop", 0)


def warning(rule: Rule, what: str, remedy: str) -> Finding:
    return Finding(rule.__name__, what, remedy, "warning", 0)


# --- the costs ------------------------------------------------------------------------------------


def seconds_in_all(costs: Costs, grpo: Grpo) -> float:
    """Of training, as if completions kept their length. A KL penalty adds a forward pass."""
    completions = grpo.generations * grpo.sampled_batches * grpo.batch_size
    a_batch = costs.update_seconds + (costs.forward_seconds if grpo.kl_coef else 0.0)
    batches = grpo.max_steps * grpo.gradient_accumulation_steps
    return completions * costs.sampling_seconds + batches * costs.filled * a_batch


def expected(costs: Costs, grpo: Grpo) -> dict[str, float]:
    """The costs as metrics. They are of this machine and this moment, and do not compare."""
    seconds = seconds_in_all(costs, grpo)
    name = "peak_gpu_memory_mb" if costs.of == "GPU memory" else "peak_memory_mb"
    return {
        "tokens_per_second": round(costs.tokens_per_second, 1),
        "steps": grpo.max_steps,
        "seconds_a_step": round(seconds / grpo.max_steps, 3),
        "training_seconds": round(seconds, 1),
        name: costs.memory // 10**6,
    }


def in_words(figures: Figures, costs: Costs, grpo: Grpo) -> str:
    """`31 % right, 45 % of groups differ, 2 % cut off, 812 tokens/s; 60 steps, about 25.0 s ...`"""
    return (
        f"{100 * figures.pass_rate:.0f} % right, {100 * (1 - figures.dead_groups):.0f} % of groups "
        f"differ, {100 * figures.truncated:.0f} % cut off, {costs.tokens_per_second:.0f} tokens/s; "
        f"{grpo.max_steps} steps, about {duration(seconds_in_all(costs, grpo))} and "
        f"{costs.memory / 1e9:.1f} GB of {costs.of}"
    )


def longest(rows: Iterable[dict]) -> list[dict]:
    """The rows among which the prompt of the most tokens is, as good as surely."""
    return heapq.nlargest(LONGEST, rows, key=lambda row: len(prompt_text(row)))


def prompt_text(row: dict) -> str:
    return "\n".join(message["content"] for message in row["prompt"])
