from pathlib import Path

import pytest
import torch
import yaml

from stages import base, distill, tasks
from stages.core import checkpoints, models, params, resume, student, tracking
from stages.core.errors import UserError
from stages.core.files import read_rows, write_rows
from stages.core.matching import completion_ids
from stages.core.params import Shape
from stages.core.stage import Run, seed_everything
from tests import known
from tests.conftest import ROOT, copy, merged
from tests.known import KNOWN

SMALL = {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 64}
CHANGES = {
    "run": {"checkpoint_seconds": 0},
    "distill": {
        "num_samples": 10, "min_samples": 1, "samples_per_prompt": 2, "temperature": 1.5,
        "max_steps": 5, "batch_size": 4, "max_completion_length": 24, "precision": "fp32",
        "student": {"scratch": SMALL}, "trainer": {"warmup_steps": 0, "logging_steps": 1},
    },
}  # fmt: skip
WHOLE = {"student": {"source": "layers", "layers": 1, "scratch": None}}  # all that the teacher has


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Path:
    """A folder with a teacher that knows two answers, and a few rows."""
    folder = known.project(tmp_path_factory.mktemp("taught"))
    for name in ("dvc.yaml", "stages", "data/raw/README.md"):
        copy(ROOT / name, folder / name)
    fmt = params.load(folder / "params.yaml").format
    rows = [
        {"prompt": tasks.prompt(question, fmt), "gold": gold, "question": question,
         "task": "arithmetic", "level": "1", "working": "1+1=2",
         "completion": [{"role": "assistant", "content": completion}]}
        for question, (completion, gold) in KNOWN.items()
    ]  # fmt: skip
    write_rows(folder / "data/sft.jsonl", rows * 3)
    write_rows(folder / "data/grpo.jsonl", rows * 2)
    rollout = {"task": "arithmetic", "question": known.SHORT, "gold": "2", "correct": True}
    write_rows(folder / "rollouts/grpo.jsonl", [
        {**rollout, "step": 4, "completion": "<answer>2</answer>"},
        {**rollout, "step": 4, "completion": "<answer>3</answer>", "correct": False},
        {**rollout, "step": 4, "completion": "<answer>2</answer>", "question": "of another pool"},
        {**rollout, "step": 3, "completion": "<think>2</think><answer>2</answer>"},
    ])  # fmt: skip
    return folder


@pytest.fixture
def here(taught, monkeypatch) -> Path:
    monkeypatch.chdir(taught)
    return taught


def loaded(changes: dict) -> params.Params:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw = merged(merged(raw, CHANGES), {"distill": changes})
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    return params.load()


def run_of(given: params.Params, kind: type[Run] = Run, name: str = "distill") -> Run:
    seed_everything(given.seed)
    return kind(name, given, tracking.Spool(Path("spool.jsonl")))


def made(changes: dict) -> tuple[dict, Run, dict[str, torch.Tensor]]:
    """The stage's metrics, its run and the student's weights."""
    given = loaded(changes)
    run = run_of(given)
    metrics = distill.body(given, run)
    resume.finished("distill")
    return metrics, run, weights()


def weights() -> dict[str, torch.Tensor]:
    return models.load_model(distill.OUT, "eager").state_dict()


def sample(question: str, completion: str, correct: bool = True) -> dict:
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": completion}],
        "correct": correct,
    }


def test_only_what_the_reward_calls_right_is_verified(raw):
    loaded = params.validate(raw, "params.yaml")
    row = {"prompt": [{"role": "user", "content": "1+1?"}], "gold": "2"}
    texts = ["<think>1+1=2</think><answer>2</answer>", "<think>2</think><answer>3</answer>", "2"]
    judged = list(distill.verified(((row, text) for text in texts), loaded))
    assert [s["correct"] for s in judged] == [True, False, False]


def test_a_prompt_and_completion_counts_once():
    samples = [sample("a", "1"), sample("a", "1"), sample("a", "2"), sample("b", "1")]
    assert len(distill.distinct(samples)) == 3


def test_too_few_verified_samples_are_an_error_that_names_the_remedies(raw):
    section = params.validate(merged(raw, {"distill": {"min_samples": 2}}), "x").distill
    kept = [sample("a", "1"), sample("b", "1")]
    assert distill.enough(kept, section) == kept
    with pytest.raises(UserError, match=r"got 1 samples right, distill\.min_samples asks for 2"):
        distill.enough(kept[:1], section)


@pytest.mark.parametrize(("asked", "fell_back"), [(1, 0), (1000, 1)])
def test_falling_back_to_demonstrations_is_told(here, caplog, asked, fell_back):
    given = loaded({"min_samples": asked, "if_fewer": "demonstrations", "num_samples": 4})
    lessons, counts = distill.material(given, run_of(given), tokenizer())
    resume.finished("distill")
    assert counts["fell_back"] == fell_back
    assert (list(lessons) == list(read_rows(distill.DEMONSTRATIONS))) == bool(fell_back)
    says = "distill.min_samples asks for 1000: the student learns from the demonstrations"
    assert (says in caplog.text) == bool(fell_back)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"keep": None}, ["1 + 1", "1 + 1 = 2", "1 + 1 is 2", "two", "4"]),
        ({"keep": 2}, ["two", "1 + 1", "4"]),
        ({"keep": 3}, ["two", "1 + 1", "1 + 1 = 2", "4"]),
    ],
)
def test_at_most_so_many_of_each_prompt(raw, changes, kept):
    texts = ["1 + 1", "1 + 1 = 2", "1 + 1 is 2", "two"]
    samples = [*(sample("1+1?", text) for text in texts), sample("2+2?", "4")]
    section = params.validate(merged(raw, {"distill": changes}), "x").distill
    chosen = distill.at_most(samples, section)
    assert [one["completion"][0]["content"] for one in chosen] == kept


def test_diverse_takes_what_is_least_like_the_shortest():
    samples = [sample("a", text) for text in ("2 = 1 + 1", "2 = 1 + 1 .", "by heart : two apples")]
    chosen = distill.diverse(samples, 2)
    assert [one["completion"][0]["content"] for one in chosen][1] == "by heart : two apples"


def test_late_and_right_rollouts_of_known_prompts_are_used_again(here):
    (again,) = distill.reused()
    assert again["completion"][0]["content"] == "<answer>2</answer>" and again["correct"]
    assert again["prompt"] == next(read_rows(distill.POOL))["prompt"]
    given = loaded({"rollouts": True, "num_samples": 2, "samples_per_prompt": 1})
    lessons, counts = distill.material(given, run_of(given), tokenizer())
    resume.finished("distill")
    assert counts["reused"] == 1 and counts["kept"] == len(lessons) <= counts["verified"] + 1
    assert again in lessons


@pytest.mark.parametrize("method", ["verified", "unverified", "demonstrations", "logits"])
def test_every_method_ends_in_a_trained_student(here, method):
    metrics, run, after = made({"method": method, "rollouts": False})
    before, _ = student.new(loaded({"method": method}), distill.TEACHER, tokenizer())
    assert metrics["method"] == method and len(run.curve) >= 5
    assert any(not torch.equal(after[name], old) for name, old in before.state_dict().items())
    samples = list(read_rows(distill.SAMPLES))
    counts = {
        "verified": len(distill.distinct([s for s in samples if s["correct"]])),
        "unverified": len(distill.distinct(samples)),
        "logits": len(distill.distinct(samples)),
        "demonstrations": 6,
    }
    assert metrics["kept"] == counts[method]
    assert metrics["sampled"] == len(samples) == (0 if method == "demonstrations" else 20)


def test_the_same_student_taught_otherwise_is_the_one_that_this_method_makes(here):
    expected, _, weights_of_it = made({"method": "unverified"})
    samples, curve = distill.SAMPLES.read_bytes(), distill.CURVE.read_bytes()
    made({"method": "demonstrations"})
    main = weights()

    raw = yaml.safe_load(Path("params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump(raw | {"report": {"compare": ["unverified"]}}))
    given, name = params.load(), "distill_also@unverified"
    metrics = distill.otherwise("unverified", given, run_of(given, name=name))
    resume.finished(name)
    assert metrics == expected and metrics["rows"] == metrics["kept"]
    assert Path("rollouts/teacher-unverified.jsonl").read_bytes() == samples
    assert Path("plots/distill-unverified.csv").read_bytes() == curve
    other = models.load_model(Path("models/student-unverified"), "eager").state_dict()
    assert all(torch.equal(weights_of_it[key], found) for key, found in other.items())
    assert all(torch.equal(main[key], found) for key, found in weights().items())
    assert any(not torch.equal(main[key], found) for key, found in other.items())


def tokenizer():
    return models.load_tokenizer(distill.TEACHER)


def test_on_policy_brings_the_student_nearer_to_its_teacher(here):
    metrics, run, _ = made({"method": "on_policy", "max_steps": 12, "learning_rate": 0.02})
    losses = [row["loss"] for row in run.curve if "loss" in row]
    assert metrics["sampled"] == 0 and metrics["kept"] == 10
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("method", ["logits", "on_policy"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(here, method):
    _, run, _ = made({"method": method, "max_steps": 1, "learning_rate": 1e-12, **WHOLE})
    _, other, _ = made({"method": method, "max_steps": 1, "learning_rate": 1e-12})
    assert abs(run.curve[0]["loss"]) < 1e-6 < 0.05 < other.curve[0]["loss"]


@pytest.mark.parametrize("method", ["logits", "on_policy"])
def test_stopped_at_a_step_it_goes_on_with_the_same_bits(here, method):
    """Rows are gone through more than once: the second time in another order than the first."""

    class Stopped(Run):
        def log(self, step, metrics):
            super().log(step, metrics)
            if step == 4:
                raise InterruptedError

    changes = {"method": method, "trainer": {"warmup_steps": 0, "logging_steps": 1}}
    _, whole, expected = made(changes)
    given = loaded(changes)
    with pytest.raises(InterruptedError):
        distill.body(given, run_of(given, Stopped))
    assert checkpoints.newest(resume.folder("distill")).name == "checkpoint-3"
    again = run_of(given)
    distill.body(given, again)
    assert again.curve == whole.curve
    assert all(torch.equal(expected[name], found) for name, found in weights().items())
    resume.finished("distill")


def test_given_completions_are_the_tokens_that_supervised_training_takes(here):
    own = tokenizer()
    row = next(iter(read_rows(distill.DEMONSTRATIONS)))
    prompt = own.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
    whole = own.apply_chat_template(row["prompt"] + row["completion"], tokenize=False)
    ids = own(prompt)["input_ids"] + completion_ids(row, own)
    assert own(whole)["input_ids"][: len(ids)] == ids


@pytest.mark.parametrize(("wanted", "kept"), [([0, 2], [0, 2]), (3, [0, 2, 3]), (1, [0])])
def test_a_student_of_layers_has_the_teachers_weights(here, wanted, kept):
    shape = Shape(hidden_size=32, layers=4, heads=2, intermediate_size=64)
    teacher = models.from_scratch(shape, tokenizer(), seed=1)
    pupil = student.of_layers(teacher, wanted)
    assert pupil.config.num_hidden_layers == len(pupil.model.layers) == len(kept)
    for layer, source in zip(pupil.model.layers, kept, strict=True):
        theirs = teacher.model.layers[source].state_dict()
        assert all(torch.equal(theirs[name], own) for name, own in layer.state_dict().items())
    rest = {k: v for k, v in teacher.state_dict().items() if ".layers." not in k}
    assert rest and all(torch.equal(pupil.state_dict()[k], v) for k, v in rest.items())
    teacher.model.layers = torch.nn.ModuleList(teacher.model.layers[index] for index in kept)
    teacher.config.num_hidden_layers = len(kept)
    ids = torch.arange(20).view(2, 10)
    same = [model(ids, use_cache=False).logits for model in (teacher, pupil)]
    assert torch.equal(*same)


@pytest.mark.parametrize("wanted", [3, [0, 7]])
def test_layers_that_the_teacher_does_not_have_are_refused(here, wanted):
    teacher = models.load_model(distill.TEACHER, "eager")
    with pytest.raises(UserError, match="the teacher has 1, numbered 0 to 0"):
        student.of_layers(teacher, wanted)


def test_another_tokenizer_is_refused_where_distributions_are_compared(here, raw):
    other = base.make_tokenizer(params.validate(merged(raw, {"base": {"vocab_size": 400}}), "x"))
    shape = Shape(**SMALL)
    models.save_model(models.from_scratch(shape, other, 0), other, here / "other")
    models.save_model(models.from_scratch(shape, tokenizer(), 0, 999), tokenizer(), here / "wide")
    for source, says in (("./other", "another tokenizer"), ("./wide", "999 of them, the teacher")):
        elsewhere = {"student": {"source": source, "watch": source, "scratch": None}}
        for method in ("logits", "on_policy"):
            given = loaded({"method": method, **elsewhere})
            with pytest.raises(UserError, match=says):
                student.require_fitting(given, distill.TEACHER, tokenizer())
        student.require_fitting(loaded(elsewhere), distill.TEACHER, tokenizer())


def test_fewer_rows_than_a_step_takes_are_refused(here):
    with pytest.raises(UserError, match="10 rows to train on, and a step takes 16"):
        made({"method": "on_policy", "batch_size": 16})
