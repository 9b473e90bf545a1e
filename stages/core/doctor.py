"""The diagnosis of a training run: what is wrong, in plain words, and what helps.

A rule is a pure function of the curve so far (a row of metrics for each log line, named as in
plots/*.csv; `profiling/` ones beside them) and of the section of params.yaml that trains. It
returns a finding or None; a metric that is missing or no number gives none. The rules and their
remedies as a table: docs/troubleshooting.md.
"""

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from itertools import islice
from math import isfinite, isinf, isnan, sqrt
from statistics import median
from typing import Literal, NamedTuple

from stages.core.params import Distill, Grpo, Sft, Training

Curve = list[dict[str, float]]

RECENT = 5  # log lines that "now" means: one step of 16 prompts alone is off by 0.1 (measured)
FEWEST = 10  # log lines below which nothing is said about a change
# Standard errors. Rules look after every step: at two, over half of flat runs were once called
# falling, at four 3 % (simulated).
SURE = 4.0
LATE = 1 / 2  # of max_steps: from here on a run that learns shows it

JUDGED = 30  # log lines below which nothing is said about a rise of the success rate
ABOVE_NOISE = 50  # log lines from which a rise ought to show above the noise (A trains 50 steps)
LEAST_RISE = 0.05  # of the success rate; runs that learn gain 0.1 to 0.4 (docs: 0.2 -> 0.6)
REWARD_TARGET, ACCURACY_TARGET, FORMAT_TARGET, KL_TARGET = 0.7, 0.7, 0.95, 0.5  # users' documents
LOW_SUCCESS = 0.2  # where the documents start (0.2 -> 0.6): below, SFT comes first
IN_A_ROW = 3  # log lines over grpo.max_kl that stop: one alone may be a single odd token
COLLAPSED = 0.1  # of the entropy at the start; runs that learned well fell to 0.2 (measured)
MORE = 1.5  # times the entropy or length at the start of the window, where nothing gets better
TRUNCATED = 0.3  # share of completions cut off: they earn nothing, whatever they say
POOR_FORMAT = 0.8  # of completions; the documents expect 0.95
DEAD = 0.7  # share of groups without a difference in reward: over two thirds of the work is wasted
NO_LOSS = 1e-4  # what trainers print as 0.0
SPIKE = 10.0  # times the median gradient norm; good runs stayed below 2 (measured)
SLOW_STEP = 30.0  # seconds; 120 of them are an hour
SLOW_REWARD = 0.25  # of a step's time: rewards are cheap, unless code is run
LEAST_FALL = 0.01  # of the loss


@dataclass(frozen=True)
class Finding:
    name: str
    what: str
    remedy: str
    severity: Literal["info", "warning", "stop"]
    step: int


class Trend(NamedTuple):
    """A straight line through equally spaced values, by least squares."""

    first: float  # of the line, at the first value
    rise: float  # of the line, from the first value to the last
    error: float  # standard error of the rise

    @property
    def rises(self) -> bool:
        return self.rise > SURE * self.error

    @property
    def falls(self) -> bool:
        return self.rise < -SURE * self.error


Rule = Callable[[Curve, Training], Finding | None]


def diagnose(curve: Curve, section: Training, known: Container[str] = ()) -> list[Finding]:
    """What the rules for this kind of training find, but for findings that are known already."""
    rules = GRPO_RULES if isinstance(section, Grpo) else SUPERVISED_RULES
    found = (rule(curve, section) for rule in rules if rule.__name__ not in known)
    return [finding for finding in found if finding]


# Any training


def not_finite(curve: Curve, section: Training) -> Finding | None:
    """No completion of a step could be judged: not yet a reason to stop. TRL logs None for it."""
    if not curve:
        return None
    name = section_name(section)
    now = {metric: next(logged(curve[-1:], metric), 0.0) for metric in ("loss", "grad_norm")}
    if broken := [metric for metric, value in now.items() if not isfinite(value)]:
        return found(
            not_finite, curve, f"{broken[0]} is {now[broken[0]]}",
            f"lower {name}.learning_rate (now {section.learning_rate:g}), or set {name}.precision "
            "to fp32", "stop",
        )  # fmt: skip
    told = [row for row in curve[-IN_A_ROW:] if {"mean_reward", "unjudged"} & row.keys()]
    rewards = [next(logged([row], "mean_reward"), float("nan")) for row in told]
    unjudged = len(rewards) == IN_A_ROW and all(map(isnan, rewards))
    if not unjudged and not any(map(isinf, rewards[-1:])):
        return None
    return found(
        not_finite, curve, f"mean_reward is {rewards[-1]}",
        "find the reward that returns inf, or NaN or None for all (the rewards of each completion "
        "stand in rollouts/grpo.jsonl)", "stop",
    )  # fmt: skip


def gradient_spike(curve: Curve, section: Training) -> Finding | None:
    norms = [norm for norm in values(curve, "grad_norm", 4 * RECENT + 1) if norm > 0]
    if len(norms) < FEWEST or norms[-1] <= SPIKE * (usual := median(norms[:-1])):
        return None
    name = section_name(section)
    return found(
        gradient_spike, curve, f"the gradient norm is {norms[-1]:.3g}, {usual:.3g} is usual",
        f"one alone does no harm (it is clipped at {name}.trainer.max_grad_norm); if it comes "
        f"again, lower {name}.learning_rate (now {section.learning_rate:g}) or raise "
        f"{name}.trainer.warmup_steps", "warning",
    )  # fmt: skip


# Supervised training


def loss_not_falling(curve: Curve, section: Training) -> Finding | None:
    losses = values(curve, "loss")
    trend = line(losses)
    if len(losses) < FEWEST or not late(curve, section) or trend is None:
        return None
    if trend.falls or trend.rise - 2 * trend.error < -LEAST_FALL * abs(trend.first):
        return None
    name = section_name(section)
    return found(
        loss_not_falling, curve,
        f"the loss does not fall: {trend.first:.3g} at first, change {trend.rise:+.2g} "
        f"± {2 * trend.error:.2g}",
        f"{name}.learning_rate (now {section.learning_rate:g}) three times lower if the loss "
        "jumps, higher if it lies still; look at the rows it learns from", "warning",
    )  # fmt: skip


# GRPO


def nothing_right(curve: Curve, section: Grpo) -> Finding | None:
    successes = values(curve, "accuracy")
    if len(successes) < FEWEST or any(successes):
        return None
    return found(
        nothing_right, curve, f"not one completion was right in {len(successes)} log lines",
        "read some in rollouts/grpo.jsonl: if right ones are judged wrong, mend the reward or the "
        "format (python -m stages.rewards score); if all are wrong, more SFT first "
        "(task.demonstrations, sft.max_steps) or easier problems (task.levels)", "warning",
    )  # fmt: skip


def success_not_rising(curve: Curve, section: Grpo) -> Finding | None:
    """Surely less than LEAST_RISE over the last half, or nothing above the noise in all."""
    successes = success(curve)
    if len(successes) < JUDGED or not late(curve, section) or not any(successes):
        return None
    half = successes[-max(JUDGED, len(successes) // 2) :]
    now, whole = line(half), line(successes)
    if mean(half[-RECENT:]) > ACCURACY_TARGET or now.falls:
        return None
    flat = now.rise + 3 * now.error < LEAST_RISE
    if not flat and (len(successes) < ABOVE_NOISE or whole.rise > whole.error):
        return None
    n, shown = (len(half), now) if flat else (len(successes), whole)
    level = mean(half)
    return found(
        success_not_rising, curve,
        f"the success rate does not rise: {level:.2f}, change {shown.rise:+.2f} "
        f"± {2 * shown.error:.2f} over the last {n} log lines", "; ".join(to_learn(level, section)),
        "warning",
    )  # fmt: skip


def to_learn(level: float, grpo: Grpo) -> Iterator[str]:
    """What the documents advise where nothing is learned, with what stands in params.yaml now."""
    if level < LOW_SUCCESS:
        yield "more SFT first (task.demonstrations, sft.max_steps)"
        yield "easier problems (task.levels, grpo.curriculum)"
    yield "check the reward on known answers (python -m stages.rewards score)"
    if grpo.group_size < 8:
        yield f"raise grpo.group_size (now {grpo.group_size}) to 8"
    if grpo.temperature < 1:
        yield f"raise grpo.temperature (now {grpo.temperature:g}) to 1"
    if grpo.learning_rate < 1e-5:
        yield f"raise grpo.learning_rate (now {grpo.learning_rate:g}) to 1e-5"
    if grpo.kl_coef > 0.01:
        yield f"lower grpo.kl_coef (now {grpo.kl_coef:g}) to 0.01"
    yield f"raise grpo.max_steps (now {grpo.max_steps})"
    if level >= LOW_SUCCESS:
        yield "problems it solves sometimes (grpo.curriculum.keep), or easier ones (task.levels)"


def success_falling(curve: Curve, section: Grpo) -> Finding | None:
    trend = falling(success(curve))
    if trend is None:
        return None
    return found(
        success_falling, curve,
        f"the success rate falls: from {trend.first:.2f} by {-trend.rise:.2f} "
        f"± {2 * trend.error:.2f}",
        f"lower grpo.learning_rate (now {section.learning_rate:g}) or grpo.max_steps, raise "
        f"grpo.kl_coef (now {section.kl_coef:g})", "warning",
    )  # fmt: skip


def reward_hacked(curve: Curve, section: Grpo) -> Finding | None:
    """Something that is paid rises while the share of right answers falls."""
    right = falling(values(curve, "accuracy"))
    if right is None:
        return None
    paid = [f"rewards/{n}/mean" for n, reward in section.rewards.items() if reward.weight > 0]
    rising = [
        name
        for name in [*paid, "mean_reward"]
        if any(trend.rises for trend in lines(values(curve, name)))
    ]
    if not rising:
        return None
    return found(
        reward_hacked, curve,
        f"{' and '.join(rising)} rises while accuracy falls by {-right.rise:.2f}: the reward is "
        "earned without being right",
        "lower the weight of what rises (grpo.rewards), or pay it only with a right answer "
        "(combine: gate, docs/rewards.md); read the best paid wrong ones in rollouts/grpo.jsonl",
        "warning",
    )  # fmt: skip


def kl_high(curve: Curve, section: Grpo) -> Finding | None:
    kl = recent(curve, "kl_div")
    if kl is None or kl <= KL_TARGET:
        return None
    return found(kl_high, curve, f"kl_div is {kl:.2f}, over {KL_TARGET}: the policy runs away from "
                 "the SFT model", calmer(section), "warning")  # fmt: skip


def kl_over_limit(curve: Curve, section: Grpo) -> Finding | None:
    kl = [value for value in islice(logged(curve, "kl_div"), IN_A_ROW) if not isnan(value)]
    if section.max_kl is None or len(kl) < IN_A_ROW or min(kl) <= section.max_kl:
        return None
    return found(
        kl_over_limit, curve,
        f"kl_div was over grpo.max_kl {section.max_kl:g} in {IN_A_ROW} log lines running, last "
        f"{kl[0]:.2f}", f"{calmer(section)}; or raise grpo.max_kl", "stop",
    )  # fmt: skip


def calmer(grpo: Grpo) -> str:
    return (f"lower grpo.learning_rate (now {grpo.learning_rate:g}) or raise grpo.kl_coef "
            f"(now {grpo.kl_coef:g}; 0.04 is usual)")  # fmt: skip


def entropy_collapse(curve: Curve, section: Grpo) -> Finding | None:
    """A low entropy is a fault only where there is still something to learn."""
    entropies, successes = values(curve, "entropy"), success(curve, RECENT)
    if len(entropies) < FEWEST or (successes and mean(successes) > ACCURACY_TARGET):
        return None
    start, now = mean(entropies[:RECENT]), mean(entropies[-RECENT:])
    if now >= COLLAPSED * start:
        return None
    return found(
        entropy_collapse, curve,
        f"the entropy collapsed from {start:.3g} to {now:.3g}: samples of a prompt are alike",
        f"raise grpo.temperature (now {section.temperature:g}), lower grpo.learning_rate (now "
        f"{section.learning_rate:g}), or pay for entropy (grpo.trainer.entropy_coef)", "warning",
    )  # fmt: skip


def incoherent(curve: Curve, section: Grpo) -> Finding | None:
    """Entropy or length grows while the reward falls."""
    if not any(trend.falls for trend in lines(values(curve, "mean_reward"))):
        return None
    for name in ("entropy", "completion_length"):
        grown = [trend for trend in lines(values(curve, name))
                 if trend.rises and trend.rise > (MORE - 1) * abs(trend.first)]  # fmt: skip
        if grown:
            return found(
                incoherent, curve,
                f"{name} grows from {grown[0].first:.3g} by {grown[0].rise:.3g} while the reward "
                "falls: the text comes apart",
                f"grpo.temperature (now {section.temperature:g}) 0.6 to 0.7, {calmer(section)}, a "
                "clearer format.system, more SFT first, or a base that can reason", "warning",
            )  # fmt: skip
    return None


def truncated(curve: Curve, section: Grpo) -> Finding | None:
    share = recent(curve, "truncated")
    if share is None or share <= TRUNCATED:
        return None
    limit = section.max_completion_length
    return found(
        truncated, curve,
        f"{share:.0%} of completions are cut off at grpo.max_completion_length {limit} and earn "
        "nothing",
        f"raise it to {2 * limit}; if completions run on after their answer, teach the end in SFT "
        "or let them pay for length (the overlong reward, docs/rewards.md)", "warning",
    )  # fmt: skip


def poor_format(curve: Curve, section: Grpo) -> Finding | None:
    rate = recent(curve, "format_compliance_rate")
    trend = line(last_half(values(curve, "format_compliance_rate")))
    if trend is None or rate >= POOR_FORMAT or not late(curve, section) or trend.rises:
        return None
    paid = section.rewards.get("format")
    weight = f"(now {paid.weight:g})" if paid else "(now not paid)"
    return found(
        poor_format, curve, f"only {rate:.0%} of completions keep the format",
        f"raise grpo.rewards.format.weight {weight}, say the format in format.system, more steps, "
        "or more SFT first", "warning",
    )  # fmt: skip


def dead_groups(curve: Curve, section: Grpo) -> Finding | None:
    share = recent(curve, "dead_groups")
    if share is None or share <= DEAD:
        return None
    successes = success(curve, RECENT)
    what = f"{share:.0%} of groups teach nothing: all their completions earn the same"
    if successes and mean(successes) > ACCURACY_TARGET:
        return found(
            dead_groups, curve, f"{what}, as most are right",
            f"{HARDER}; else training may end here", "info",
        )  # fmt: skip
    return found(dead_groups, curve, what, to_differ(section), "warning")


HARDER = "harder problems (task.levels), or those that are solved sometimes (grpo.curriculum.keep)"


def to_differ(grpo: Grpo) -> str:
    """What makes a group's rewards differ where few are right."""
    return (
        f"raise grpo.group_size (now {grpo.group_size}) or grpo.temperature (now "
        f"{grpo.temperature:g}), easier problems or those that are solved sometimes "
        "(grpo.curriculum.keep), other prompts in their place (grpo.dynamic_sampling, now "
        f"{grpo.dynamic_sampling}), a reward with steps in between (docs/rewards.md), more SFT "
        "first"
    )


def loss_zero(curve: Curve, section: Grpo) -> Finding | None:
    losses, norms = values(curve, "loss", RECENT), values(curve, "grad_norm", RECENT)
    dead = recent(curve, "dead_groups")
    if len(losses) < RECENT or max(map(abs, losses)) >= NO_LOSS or not any(norms):
        return None
    if dead is None or dead > DEAD:
        return None
    return found(
        loss_zero, curve, "the loss is 0, and yet the gradient is not",
        "none needed: with one update a batch the advantages of a group cancel in the loss's "
        "value; watch mean_reward and accuracy", "info",
    )  # fmt: skip


def slow(curve: Curve, section: Grpo) -> Finding | None:
    step = recent(curve, "step_time")
    spent = {part: recent(curve, f"profiling/{part}") for part in ("generation", "rewards")}
    if step is None or None in spent.values() or step <= 0:
        return None
    batches = section.gradient_accumulation_steps / section.rollout_every
    shares = {part: seconds * batches / step for part, seconds in spent.items()}
    part, remedy = "generation", (
        "a lower grpo.max_completion_length or grpo.group_size (2 to 4), a smaller model, vLLM "
        "(grpo.trainer.use_vllm)"
    )  # fmt: skip
    if shares["rewards"] > SLOW_REWARD:
        part, remedy = "rewards", "a cheaper reward, fewer or shorter tests"
    elif shares["generation"] < 0.5:
        part, remedy = "update", (
            "a larger grpo.batch_size with less accumulation, bf16 or fp16 (grpo.precision), "
            "base.attn_implementation, grpo.trainer.activation_checkpointing false where memory "
            "allows, a smaller model"
        )  # fmt: skip
        shares["update"] = 1 - sum(shares.values())
    if step <= SLOW_STEP:
        return None
    return found(slow, curve, f"a step takes {step:.0f} s, {shares[part]:.0%} of it {part}", remedy,
                 "info")  # fmt: skip


SUPERVISED_RULES: tuple[Rule, ...] = (not_finite, loss_not_falling, gradient_spike)
GRPO_RULES: tuple[Rule, ...] = (
    not_finite, kl_over_limit, kl_high, nothing_right, success_not_rising, success_falling,
    reward_hacked, incoherent, entropy_collapse, truncated, poor_format, dead_groups,
    gradient_spike, loss_zero, slow,
)  # fmt: skip


def targets(curve: Curve) -> list[dict]:
    """The documents' targets: `{name, goal, value, reached}`; None where it was not measured."""
    found = []
    for name, sign, goal in (
        ("mean_reward", ">", REWARD_TARGET), ("accuracy", ">", ACCURACY_TARGET),
        ("format_compliance_rate", ">", FORMAT_TARGET), ("kl_div", "<", KL_TARGET),
    ):  # fmt: skip
        now = values(curve, name, RECENT)
        value = mean(now) if now else None
        reached = None if value is None else value > goal if sign == ">" else value < goal
        found.append({"name": name, "goal": f"{sign} {goal:g}", "value": value, "reached": reached})
    return found


def in_words(targets: list[dict]) -> str:
    """`mean_reward 0.69 (> 0.7: not reached), kl_div (< 0.5: not measured)`"""
    said = {True: "reached", False: "not reached", None: "not measured"}
    return ", ".join(
        f"{t['name']}{'' if t['value'] is None else format(t['value'], ' .2f')} "
        f"({t['goal']}: {said[t['reached']]})"
        for t in targets
    )


# Out of memory


def memory_advice(section: Training, sampling: bool = False) -> str:
    """What to lower, in which order, with this run's numbers; a step stays as large as it is.

    Args:
        sampling: it happened while completions were sampled. A whole generation batch is sampled
            at once, whatever the micro-batch is.
    """
    at_once = smaller_step if isinstance(section, Distill) else fewer_at_once
    steps = [*(at_once(section) if sampling else smaller_batch(section)),
             *checkpointing(section), *shorter(section), *smaller_group(section),
             *lighter_weights(section)]  # fmt: skip
    return "; ".join(f"{i}. {step}" for i, step in enumerate(steps, 1))


def smaller_batch(section: Training) -> Iterator[str]:
    batch, accumulation = section.batch_size, section.gradient_accumulation_steps
    if new := smaller(batch):
        name = section_name(section)
        yield (f"{name}.batch_size {batch} -> {new} and {name}.gradient_accumulation_steps "
               f"{accumulation} -> {accumulation * batch // new} (still {batch * accumulation} a "
               "step)")  # fmt: skip


def smaller_step(distill: Distill) -> Iterator[str]:
    """On-policy distillation samples all of a step at once: TRL knows no other way there."""
    for option in ("gradient_accumulation_steps", "batch_size"):
        if new := smaller(was := getattr(distill, option)):
            yield f"distill.{option} {was} -> {new} (the step becomes smaller)"
            return


def fewer_at_once(grpo: Grpo) -> Iterator[str]:
    """Several generations a step; each must hold whole groups."""
    batch, accumulation, group = grpo.batch_size, grpo.gradient_accumulation_steps, grpo.group_size
    steps = grpo.trainer.get("steps_per_generation") or accumulation
    if new := smaller(steps, lambda n: batch * n % group == 0):
        yield (f"grpo.trainer.steps_per_generation {steps} -> {new} ({batch * new} completions "
               f"sampled at once, still {batch * accumulation} a step)")  # fmt: skip
    elif new := smaller(batch, lambda n: n * steps % group == 0):
        yield (f"grpo.batch_size {batch} -> {new}, grpo.gradient_accumulation_steps {accumulation} "
               f"-> {accumulation * batch // new} and grpo.trainer.steps_per_generation {steps} "
               f"(still {batch * accumulation} a step, {new * steps} at once)")  # fmt: skip


def checkpointing(section: Training) -> Iterator[str]:
    for option in ("activation_checkpointing", "gradient_checkpointing"):
        if section.trainer.get(option) is False:
            yield f"{section_name(section)}.trainer.{option} true"


def shorter(section: Training) -> Iterator[str]:
    sampled = isinstance(section, Grpo) or getattr(section, "method", None) == "on_policy"
    option = "max_completion_length" if sampled else "max_length"
    length = getattr(section, option)
    if length > 1:
        yield f"{section_name(section)}.{option} {length} -> {length // 2}"


def smaller_group(section: Training) -> Iterator[str]:
    if isinstance(section, Grpo) and (new := smaller(section.group_size, lambda n: n > 1)):
        yield f"grpo.group_size {section.group_size} -> {new}"


def lighter_weights(section: Training) -> Iterator[str]:
    if isinstance(section, Grpo) and section.lora is None:
        yield "grpo.lora (an adapter) in place of null (all weights)"
    elif isinstance(section, Grpo) and section.quantize == "none":
        yield "grpo.quantize nf4"
    if isinstance(section, Sft) and section.method in ("full", "lora"):
        yield f"sft.method {section.method} -> {'lora' if section.method == 'full' else 'qlora'}"
    yield "a smaller model, and no other process on the GPU (nvidia-smi)"


def smaller(n: int, fits: Callable[[int], bool] = lambda _: True) -> int | None:
    """The largest number below `n` that divides it and fits."""
    return next((m for m in range(n // 2, 0, -1) if n % m == 0 and fits(m)), None)


# The curve


def logged(curve: Curve, name: str) -> Iterator[float]:
    """A metric's values, the latest first, also those that are no finite number."""
    return (float(row[name]) for row in reversed(curve) if isinstance(row.get(name), int | float))


def values(curve: Curve, name: str, last: int | None = None) -> list[float]:
    """The finite values of a metric in their order, all or the last ones."""
    return list(islice(filter(isfinite, logged(curve, name)), last))[::-1]


def success(curve: Curve, last: int | None = None) -> list[float]:
    return values(curve, "accuracy", last) or values(curve, "mean_reward", last)


def recent(curve: Curve, name: str) -> float | None:
    """The mean over the last log lines; None where there are too few."""
    now = values(curve, name, RECENT)
    return mean(now) if len(now) >= IN_A_ROW else None


def last_half(series: list[float]) -> list[float]:
    """At least FEWEST values; none where there are not as many."""
    return series[-max(FEWEST, len(series) // 2) :] if len(series) >= FEWEST else []


def mean(series: list[float]) -> float:
    return sum(series) / len(series)


def line(series: list[float]) -> Trend | None:
    """Values a step apart; None below three, which leave no noise to be measured."""
    n = len(series)
    if n < 3:
        return None
    middle, level = (n - 1) / 2, mean(series)
    spread = n * (n * n - 1) / 12  # sum of (x - middle) squared
    slope = sum((x - middle) * (y - level) for x, y in enumerate(series)) / spread
    first = level - slope * middle
    residuals = [y - first - slope * x for x, y in enumerate(series)]
    variance = sum(r * r for r in residuals) / (n - 2)
    return Trend(first, slope * (n - 1), sqrt(variance / spread) * (n - 1))


def lines(series: list[float]) -> list[Trend]:
    """Through all values, and through the last half; none where they are few."""
    return [line(series), line(last_half(series))] if len(series) >= FEWEST else []


def falling(rates: list[float]) -> Trend | None:
    """A fall that is sure and matters."""
    sure = (trend for trend in lines(rates) if trend.falls and trend.rise <= -LEAST_RISE)
    return next(sure, None)


def late(curve: Curve, section: Training) -> bool:
    return bool(curve) and curve[-1].get("step", 0) >= LATE * section.max_steps


def section_name(section: Training) -> str:
    """Sft -> sft, as in params.yaml."""
    return type(section).__name__.lower()


def found(rule: Rule, curve: Curve, what: str, remedy: str, severity: str) -> Finding:
    return Finding(rule.__name__, what, remedy, severity, curve[-1].get("step", 0))
