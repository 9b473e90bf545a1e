"""What params.yaml says of GRPO is what happens: each setting, by the stage's own code.

The losses are held against the papers' formulas: GRPO https://arxiv.org/abs/2402.03300, Dr. GRPO
2503.20783, DAPO 2503.14476, GSPO 2507.18071, CISPO 2506.13585, SAPO 2511.20347.
"""

import shutil
import statistics
from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stages import grpo, merge, report
from stages.core import params as parameters
from stages.core import training
from stages.core.errors import UserError
from stages.core.pass_at import advantages
from tests import small_grpo
from tests.conftest import merged
from tests.small_grpo import apart, batch, train, trainer

# Without Adam, whose steps do not hang on the gradient's size.
SGD = {"learning_rate": 0.5, "trainer": {"optim": "sgd", "max_grad_norm": 0.0}}
UNSCALED = merged(SGD, {"trainer": {"scale_rewards": "none"}})
TWICE = merged(SGD, {"trainer": {"num_iterations": 2}})


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return small_grpo.project(tmp_path_factory.mktemp("grpo"))


@pytest.fixture(autouse=True)
def inside(made, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(made)


@pytest.fixture(scope="module")
def known() -> dict:
    """Trainings that several tests compare with, each done once."""
    return {}


def trained(known: dict, changes: dict) -> small_grpo.Trained:
    if (name := repr(changes)) not in known:
        known[name] = train(changes)
    return known[name]


# --- losses ---------------------------------------------------------------------------------------

CLIP, HIGH, LIMIT = 0.2, 0.3, 24


def fixed_batch(made) -> dict[str, torch.Tensor]:
    """Four completions of different lengths; the sampling policy and the reference were others."""
    torch.manual_seed(1)
    lengths = torch.tensor([6, 3, 8, 5])
    mask = (torch.arange(8) < lengths[:, None]).long()
    batch = {
        "prompt_ids": torch.randint(10, 400, (4, 5)),
        "prompt_mask": torch.ones(4, 5, dtype=torch.long),
        "completion_ids": torch.randint(10, 400, (4, 8)),
        "completion_mask": mask,
        "advantages": torch.tensor([1.5, -0.5, 0.7, -1.7]),
        "num_items_in_batch": mask.sum(),
    }
    with torch.no_grad():
        logps = log_probabilities(made.model, batch)
    batch["old_per_token_logps"] = logps + 0.4 * torch.randn(logps.shape)
    batch["ref_per_token_logps"] = logps + 0.4 * torch.randn(logps.shape)
    return batch


def log_probabilities(model, batch: dict) -> torch.Tensor:
    """(completions, tokens), from nothing but the model's logits."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    logits = model(input_ids=ids, attention_mask=attention).logits[:, 4:-1]
    return logits.log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0]


class Terms:
    """What the papers' formulas are made of; sums run over the tokens of each completion."""

    def __init__(self, model, batch: dict):
        self.logp = log_probabilities(model, batch)
        self.ratio = (self.logp - batch["old_per_token_logps"]).exp()
        self.advantage = batch["advantages"][:, None]
        self.mask = batch["completion_mask"]
        self.length = self.mask.sum(1)
        away = batch["ref_per_token_logps"] - self.logp
        self.kl = away.exp() - away - 1

    def clipped(self, ratio: torch.Tensor, high: float = CLIP) -> torch.Tensor:
        bounded = ratio.clamp(1 - CLIP, 1 + high)
        return torch.minimum(ratio * self.advantage, bounded * self.advantage)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return (values * self.mask).sum(1)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Of each completion's mean (GRPO, equation 3)."""
        return (self.sum(values) / self.length).mean()


def gspo(t: Terms) -> torch.Tensor:
    """Equations 5 and 7: one ratio a sequence, the geometric mean of its tokens' ratios."""
    ratio = (t.sum(t.ratio.log()) / t.length).exp()[:, None]
    return -t.clipped(ratio).mean()


def sapo(t: Terms) -> torch.Tensor:
    """Equations 5 and 6: a sigmoid gate in place of the clip, at its published temperatures."""
    heat = torch.where(t.advantage > 0, 1.0, 1.05)
    return -t.mean(4 / heat * torch.sigmoid(heat * (t.ratio - 1)) * t.advantage)


LOSSES = {
    "grpo": ({"loss_type": "grpo"}, lambda t: -t.mean(t.clipped(t.ratio))),
    "clip higher": (
        {"loss_type": "grpo", "epsilon_high": HIGH}, lambda t: -t.mean(t.clipped(t.ratio, HIGH))
    ),
    "dapo": ({"loss_type": "dapo"}, lambda t: -t.sum(t.clipped(t.ratio)).sum() / t.length.sum()),
    "dr_grpo": ({"loss_type": "dr_grpo"}, lambda t: -t.sum(t.clipped(t.ratio)).sum() / (4 * LIMIT)),
    "gspo": ({"loss_type": "grpo", "importance_sampling_level": "sequence"}, gspo),
    "cispo": (
        {"loss_type": "cispo", "epsilon_high": 1.1},
        lambda t: -t.sum(t.ratio.clamp(max=1.1).detach() * t.advantage * t.logp).sum()
        / t.length.sum(),
    ),
    "sapo": ({"loss_type": "sapo"}, sapo),
}  # fmt: skip


def gradients(model, loss: torch.Tensor) -> torch.Tensor:
    weights = [p for name, p in model.named_parameters() if "lora_B" in name]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])


def held_against(made, formula) -> float:
    """The trainer's loss, which equals the formula, as does its gradient."""
    inputs = fixed_batch(made)
    made.model.train()
    wanted = formula(Terms(made.model, inputs))
    found = made._compute_loss(made.model, inputs)
    torch.testing.assert_close(found, wanted)
    slope = gradients(made.model, wanted)
    assert slope.abs().max() > 0
    torch.testing.assert_close(gradients(made.model, found), slope, atol=1e-6, rtol=1e-4)
    return found.item()


def test_each_loss_is_its_papers():
    values = {name: held_against(trainer({"trainer": options}), formula)
              for name, (options, formula) in LOSSES.items()}  # fmt: skip
    for one, other in combinations(values, 2):
        assert abs(values[one] - values[other]) > 1e-4, (one, other)


def test_bnpo_divides_by_the_tokens_of_its_own_micro_batch():
    """As DAPO where that is the whole batch; another where it is a part of it."""
    made = trainer({"trainer": {"loss_type": "bnpo"}})
    held_against(made, LOSSES["dapo"][1])
    inputs = fixed_batch(made) | {"num_items_in_batch": torch.tensor(44)}
    alone = made._compute_loss(made.model, inputs)
    made.loss_type = "dapo"
    torch.testing.assert_close(made._compute_loss(made.model, inputs), alone * 22 / 44)


def test_the_kl_penalty_is_grpos_estimate_weighted_unless_that_is_switched_off():
    """GRPO, equation 4; by default TRL weights it by the ratio (https://arxiv.org/abs/2512.02556)."""
    options = {"kl_coef": 0.3, "trainer": {"loss_type": "grpo"}}
    held_against(trainer(options), lambda t: -t.mean(t.clipped(t.ratio) - 0.3 * t.kl * t.ratio))
    options["trainer"]["use_bias_correction_kl"] = False
    held_against(trainer(options), lambda t: -t.mean(t.clipped(t.ratio) - 0.3 * t.kl))


# --- the stage ------------------------------------------------------------------------------------


def test_the_names_that_users_know_are_in_the_curve(known):
    result = trained(known, {"kl_coef": 0.1})
    names = ("loss", "mean_reward", "kl_div", "clip_fraction", "format_compliance_rate",
             "high_reward_rate", "accuracy")  # fmt: skip
    for row in result.curve:
        assert set(names) <= row.keys()
        sampled = [r for r in result.rollouts if r["step"] == row["step"]]
        rewards = [r["reward"] for r in sampled]
        assert row["mean_reward"] == pytest.approx(statistics.mean(rewards), abs=1e-5)
        assert row["high_reward_rate"] == sum(r > 0.8 for r in rewards) / 16
        assert row["accuracy"] == sum(bool(r["correct"]) for r in sampled) / 16
        assert row["format_compliance_rate"] == sum(r["rewards"]["format"] == 1 for r in sampled) / 16  # fmt: skip # noqa: E501
    assert {"mean_reward", "accuracy", "format_compliance_rate", "kl_div"} <= result.metrics.keys()


CHANGED = [
    ({}, {"trainer": {"loss_type": "grpo"}}),
    (SGD, {"trainer": {"loss_type": "dr_grpo"}}),
    ({"batch_size": 8, "gradient_accumulation_steps": 2}, {"trainer": {"loss_type": "bnpo"}}),
    (TWICE, {"trainer": {"loss_type": "cispo", "epsilon_high": 5.0}}),
    (TWICE, {"trainer": {"loss_type": "sapo"}}),
    (TWICE, {"trainer": {"importance_sampling_level": "sequence"}}),
    (TWICE, {"clip_epsilon": 0.01}),
    (TWICE, {"clip_epsilon": 0.01, "trainer": {"epsilon_high": 10.0}}),
    (SGD, {"trainer": {"scale_rewards": "none"}}),
    (SGD, {"trainer": {"scale_rewards": "batch"}}),
    (UNSCALED, {"pass_at": 2}),
    ({}, {"kl_coef": 0.5}),
    ({}, {"trainer": {"num_iterations": 2}}),
    ({}, {"trainer": {"steps_per_generation": 2}}),
    ({"max_completion_length": 12}, {"trainer": {"mask_truncated_completions": True}}),
    ({}, {"precision": "bf16"}),
    ({}, {"quantize": "nf4"}),
    ({}, {"curriculum": {"by": "length"}}),
    ({}, {"dynamic_sampling": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("base", "change"), CHANGED, ids=lambda c: str(c))
def test_a_setting_changes_what_is_trained(known, base, change):
    result = train(merged(base, change))
    assert apart(result.weights, trained(known, base).weights) > 1e-6
    assert all(w.dtype == torch.float32 for w in result.weights.values())


def test_the_same_settings_give_the_same_bits(known):
    assert apart(train().weights, trained(known, {}).weights) == 0


def test_completions_are_clipped_from_the_second_update_on_only(known):
    first, second = trained(known, TWICE).column("clip_fraction")
    assert first == 0 and second > 0
    assert trained(known, SGD).column("clip_fraction") == [0, 0]
    cispo = merged(TWICE, {"trainer": {"loss_type": "cispo", "epsilon_high": 1.01}})
    first, second = train(cispo).column("clip_fraction")
    assert first == 0 and second > 0


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
def test_rewards_are_scaled_as_said(scale):
    made = trainer({"trainer": {"scale_rewards": scale}})
    advantages = made._generate_and_score_completions(batch(made))["advantages"]
    rewards = torch.tensor([row["reward"] for row in made.rollouts]).view(-1, 4)
    assert (rewards.std(1) > 0).any()
    spread = {
        "none": 1,
        "group": rewards.std(1, keepdim=True) + 1e-4,
        "batch": rewards.std() + 1e-4,
    }
    wanted = (rewards - rewards.mean(1, keepdim=True)) / spread[scale]
    torch.testing.assert_close(advantages, wanted.flatten(), atol=1e-4, rtol=1e-4)
    dead = (rewards.std(1) == 0).float().mean().item()
    assert made._metrics["train"]["frac_reward_zero_std"] == [dead] != [0], "whatever scales them"


def test_advantages_are_those_of_the_best_of_k():
    made = trainer({"trainer": {"scale_rewards": "none"}, "pass_at": 2})
    got = made._generate_and_score_completions(batch(made))["advantages"]
    groups = torch.tensor([row["reward"] for row in made.rollouts]).view(-1, 4)
    wanted = torch.cat([advantages(rewards, 2) for rewards in groups])
    assert wanted.any()
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    assert list(made._logs["advantages"]) == got.tolist(), "what a table of completions shows"


def test_masked_truncated_completions_have_no_gradient():
    def changed_by_their_advantage(mask: bool) -> bool:
        made = trainer(
            {"max_completion_length": 12, "trainer": {"mask_truncated_completions": mask}}
        )
        inputs = made._generate_and_score_completions(batch(made))
        ended = (inputs["completion_ids"] == made._tokenizer.eos_token_id).any(1)
        assert 0 < ended.sum() < 16
        assert (inputs["completion_mask"].any(1) == ended).all() == mask
        slope = gradients(made.model, made._compute_loss(made.model, inputs))
        inputs["advantages"] = torch.where(ended, inputs["advantages"], 100.0)
        return not torch.equal(slope, gradients(made.model, made._compute_loss(made.model, inputs)))

    assert changed_by_their_advantage(mask=False)
    assert not changed_by_their_advantage(mask=True)


def test_with_everything_truncated_and_masked_nothing_is_trained():
    options = {"max_completion_length": 2, "preflight": "off",
               "trainer": {"mask_truncated_completions": True}}  # fmt: skip
    result = train(options)
    assert result.column("grad_norm") == [0, 0] and result.column("truncated") == [1, 1]
    assert not any(w.any() for name, w in result.weights.items() if "lora_B" in name)


def test_without_a_kl_coefficient_there_is_no_reference(known):
    made = trainer()
    assert "ref_per_token_logps" not in made._generate_and_score_completions(batch(made))
    assert made.ref_model is None and not trained(known, {}).column("kl_div")
    made = trainer({"kl_coef": 0.1})
    inputs = made._generate_and_score_completions(batch(made))
    with made.model.disable_adapter(), torch.no_grad():
        wanted = log_probabilities_of(made, inputs)
    found = inputs["ref_per_token_logps"] * inputs["completion_mask"]
    torch.testing.assert_close(found, wanted * inputs["completion_mask"])
    first, second = trained(known, {"kl_coef": 0.1}).column("kl_div")
    assert first == pytest.approx(0, abs=1e-6) and second > 1e-4


def log_probabilities_of(made, inputs: dict) -> torch.Tensor:
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    length = inputs["completion_ids"].size(1)
    logits = made.model(input_ids=ids, attention_mask=attention).logits[:, -length - 1 : -1]
    return logits.log_softmax(-1).gather(-1, inputs["completion_ids"][..., None])[..., 0]


def test_a_higher_coefficient_keeps_the_policy_closer():
    loose, tight = (
        statistics.mean(train({"kl_coef": c, "max_steps": 8}).column("kl_div")[2:])
        for c in (1e-9, 10.0)
    )
    assert tight < loose / 2


# --- what is trained ------------------------------------------------------------------------------


def test_without_lora_all_weights_are_trained_and_merge_takes_the_model():
    result = train({"lora": None, "kl_coef": 0.1, "learning_rate": 1e-3})
    before = load_file("models/sft/model.safetensors")
    assert result.weights.keys() == before.keys()
    assert all((result.weights[name] - before[name]).any() for name in before)
    first, second = result.column("kl_div")  # the reference stayed what it was
    assert first == pytest.approx(0, abs=1e-6) and second > 1e-4
    assert not (grpo.ADAPTER / "adapter_config.json").exists()

    metrics = merge.body(small_grpo.params_with({}), None)
    assert apart(load_file("models/grpo/model.safetensors"), result.weights) == 0
    assert metrics["parameters"] == sum(w.numel() for w in before.values())
    (line,) = report.about_data({"test_chains_seen_in_training": None}, metrics)
    assert "all weights" in line


def test_an_adapter_on_4_bit_weights_learns_at_a_small_rate_and_is_merged():
    """In bf16, as TRL makes it, a step of 1e-6 on a weight of 0.1 would be rounded away."""
    small = {"quantize": "nf4", "learning_rate": 1e-6}
    one, three = (train({**small, "max_steps": n}).weights for n in (1, 3))
    steps = [(three[name] - one[name]).abs() for name in one if "lora_A" in name]
    assert min((step > 0).float().mean() for step in steps) > 0.5
    proof = merge.body(small_grpo.params_with({"grpo": small}), None)
    assert proof["top1_agreement"] == 1


def test_an_adapters_options_are_pefts():
    result = train({"lora": {"r": 2, "target_modules": ["q_proj"]}, "max_steps": 1})
    assert len(result.weights) == 2
    assert {min(w.shape) for w in result.weights.values()} == {2}


def test_activation_checkpointing_computes_twice_and_trains_the_same():
    def passes(on: bool) -> tuple[int, dict[str, torch.Tensor]]:
        made = trainer({"shared_prompt": False, "trainer": {"activation_checkpointing": on}})
        layer = made.model.base_model.model.model.layers[0].mlp
        seen = []
        layer.register_forward_pre_hook(lambda *_: seen.append(torch.is_grad_enabled()))
        made.train()
        weights = {n: p.detach() for n, p in made.model.named_parameters() if "lora" in n}
        return sum(seen), weights

    (plain, without), (again, with_it) = passes(False), passes(True)
    assert again > plain
    assert apart(without, with_it) < 1e-6


def test_fp16_needs_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    with pytest.raises(UserError, match="precision: fp16 needs a GPU"):
        train({"precision": "fp16"})
    assert training.frozen_dtype("bf16") == torch.bfloat16


def test_a_curriculum_trains_on_short_problems_first(known):
    def lengths(result: small_grpo.Trained) -> list[int]:
        return [len(row["question"]) for row in result.rollouts[::4]]

    ordered = lengths(train({"curriculum": {"by": "length", "stages": 2}}))
    assert max(ordered[:4]) <= min(ordered[4:])
    shuffled = lengths(trained(known, {}))
    assert max(shuffled[:4]) > min(shuffled[4:])


# --- dynamic sampling -----------------------------------------------------------------------------


def test_dead_groups_give_way_to_others(known):
    plain, dynamic = (
        trained(known, {"max_steps": 4}),
        train({"max_steps": 4, "dynamic_sampling": 3}),
    )
    dead, left = (statistics.mean(r.column("dead_groups")) for r in (plain, dynamic))
    assert dead > 0.2 and left < dead / 2
    further = [int(n) for n in dynamic.column("further_groups")]
    assert sum(further) >= sum(dynamic.column("resampled_groups")) > 0
    for row, more in zip(dynamic.curve, further, strict=True):
        sampled = [r for r in dynamic.rollouts if r["step"] == row["step"]]
        assert len(sampled) == 16 + 4 * more
        assert row["mean_reward"] == pytest.approx(statistics.mean(r["reward"] for r in sampled))
        assert row["accuracy"] == pytest.approx(
            statistics.mean(bool(r["correct"]) for r in sampled)
        )
    assert not plain.column("further_groups") and len(plain.rollouts) == 64
    assert dynamic.metrics["tokens"] > plain.metrics["tokens"]


def test_what_was_sampled_further_is_counted_and_another_prompt():
    sampled, prompts = [], []

    def length(prompts_seen=prompts, tokens=sampled, **columns) -> list[float]:
        """Only the longest question's completions differ."""
        tokens += columns["completion_ids"]
        prompts_seen += columns["prompts"]
        return [float(i) * q.startswith("Paul") for i, q in enumerate(columns["question"])]

    made = trainer({"dynamic_sampling": 3, "rewards": {"correctness": {}}}, [length])
    inputs = made._generate_and_score_completions(batch(made))
    asked = [prompt[-1]["content"] for prompt in prompts[::4]]
    assert len(asked) == len(set(asked)) == 8, "every prompt once, then there are none"
    ids = made._tokenize_prompts(prompts)[0]
    assert made.state.num_input_tokens_seen == sum(map(len, sampled)) + sum(map(len, ids))
    assert made._metrics["train"]["num_tokens"] == [made.state.num_input_tokens_seen]
    assert made._metrics["train"]["further_groups"] == [4]
    assert inputs["advantages"].view(4, 4).any(1).sum() == 1
    mean = inputs["completion_mask"].sum(1).float().mean()
    assert made._metrics["train"]["completions/mean_length"] == [pytest.approx(mean.item())]
    assert made.batch is None


def test_the_order_of_further_prompts_hangs_on_the_batch_alone():
    made = trainer({"dynamic_sampling": 1})
    inputs = batch(made)
    order = [[row["question"] for row in made.spare(inputs)] for _ in range(2)]
    made.state.global_step = 1
    assert order[0] == order[1] != [row["question"] for row in made.spare(inputs)]
    made.shuffle_dataset = False
    made.state.global_step = 0
    rows = [made.train_dataset[i] for i in range(8)]
    first = [row for row in rows[:4] for _ in range(4)]
    assert [row["question"] for row in made.spare(first)] == [r["question"] for r in rows[4:]]


# Where a batch of completions lasts for one step and a half.
UNEVEN = {"batch_size": 4, "gradient_accumulation_steps": 2, "trainer": {"steps_per_generation": 3}}


@pytest.mark.parametrize(
    "changes",
    [{"dynamic_sampling": 2}, {"lora": None, "kl_coef": 0.1, "learning_rate": 1e-3},
     {"quantize": "nf4"}, {"trainer": {"num_iterations": 2}}, UNEVEN],
    ids=str,
)  # fmt: skip
def test_a_training_that_was_cut_goes_on_to_the_same_bits(changes, caplog):
    """Over two epochs; the second training begins at the last checkpoint but one."""
    steps = {"max_steps": 10 if "trainer" in changes else 5, **changes}
    shutil.rmtree(".cache/checkpoints", ignore_errors=True)  # of other settings
    whole = train(steps, run={"checkpoint_seconds": 0})
    newest = sorted(Path(".cache/checkpoints/grpo").glob("*/checkpoint-*"))[-1]
    (newest / "complete.json").unlink()
    with caplog.at_level("INFO", "stages"):
        again = train(steps, run={"checkpoint_seconds": 0})
    assert "going on from step" in caplog.text
    assert apart(again.weights, whole.weights) == 0
    assert list(again.rollouts) == list(whole.rollouts) and again.curve == whole.curve


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"trainer": {"loss_type": "cispo"}}, "say epsilon_high: 5.0"),
        ({"lora": None, "quantize": "nf4"}, "4-bit weights cannot be trained"),
        ({"trainer": {"gradient_checkpointing": True}}, "the old name of activation_checkpointing"),
        ({"trainer": {"steps_per_generation": 3}}, "leaves 8 prompts, a batch of comp"),
    ],
)  # fmt: skip
def test_what_would_have_no_effect_is_refused(changes, says):
    with pytest.raises(UserError, match=says):
        train(changes)


def test_dynamic_sampling_is_for_one_process():
    with pytest.raises(UserError, match="for one process only"):
        small_grpo.params_with({"grpo": {"dynamic_sampling": 1}, "launch": {"processes": 2}})
    assert parameters.PARAMS.exists()


@pytest.mark.long
def test_a_pipeline_that_trains_all_weights(project, tiny):
    project.write(merged(tiny, {"grpo": {"lora": None, "learning_rate": 1e-3}}))
    assert "its model is copied" in project.dvc("repro")
    there = [(project.folder / f"models/{name}/model.safetensors").read_bytes()
             for name in ("sft", "adapter", "grpo")]  # fmt: skip
    assert there[0] != there[1] == there[2]
    assert "GRPO trained all weights" in (project.folder / "reports/report.md").read_text()
