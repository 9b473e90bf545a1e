"""Two processes (gloo, on the CPU) give what one gives; and what presets/accelerate says is valid.

No test here runs on several GPUs, nor FSDP or DeepSpeed, which do not run on CPUs.
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from stages.core import checkpoints, launch, training
from stages.core import params as parameters
from stages.core.errors import UserError
from tests import small_grpo
from tests.conftest import ROOT, TINY, Project, merged
from tests.small_grpo import apart

PRESETS = sorted((ROOT / "presets/accelerate").glob("*.yaml"))
FP32 = {"precision": "fp32"}
SETTINGS = {
    "task": {"demonstrations": 300},
    "sft": {"max_steps": 12, "learning_rate": 4e-3, "optimizer": "adamw", **FP32},
    "distill": {
        "num_samples": 300,
        "samples_per_prompt": 2,
        "max_steps": 4,
        "optimizer": "adamw",
        **FP32,
    },
    "evaluate": {"batch_size": 5, "samples_per_prompt": 2},
    "grpo": FP32,
    "run": {"checkpoint_seconds": 0},
}
MUON = {"sft": {"optimizer": "muon"}}
LORA = {"sft": {"method": "lora", "lora": {"r": 4, "target_modules": "all-linear"}}}
NOISE = 2e-6  # weights of about 0.05 in float32, after a dozen steps
ADAM_NOISE = 1e-4  # of a learning rate of 0.01; Adam makes a full step of the smallest gradient
MUON_NOISE = 1e-3  # torch's Muon orthogonalises in bf16, which rounds the last bits of sums up


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def curve(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return [{k: float(v) for k, v in row.items() if v} for row in rows]


class Scaled(Project):
    """A project whose stages can be run in one process and in two."""

    def given(self, changes: dict, processes: int) -> None:
        raw = yaml.safe_load((ROOT / "params.yaml").read_text())
        raw = merged(merged(merged(raw, TINY), SETTINGS), changes)
        self.write(merged(raw, {"launch": {"processes": processes}}))

    def outcome(self, stage: str, changes: dict, processes: int, *made: str) -> Path:
        """Runs a stage; what it made, put aside."""
        self.given(changes, processes)
        self.said = self.stage(*stage.split())
        aside = self.folder / f"aside-{processes}"
        shutil.rmtree(aside, ignore_errors=True)
        for name in made:
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(self.folder / name, aside / name)
        return aside


@pytest.fixture(scope="module")
def scaled(tmp_path_factory) -> Scaled:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    project = Scaled(tmp_path_factory.mktemp("scaled") / "project", raw)
    project.given({}, 1)
    project.stage("stages.base")
    project.stage("stages.prepare")
    shutil.copytree(project.folder / "models/base", project.folder / "models/grpo")
    return project


@pytest.mark.parametrize(("changes", "bound"), [
    pytest.param({}, NOISE, id="full", marks=pytest.mark.long),
    pytest.param(LORA, NOISE, id="lora", marks=pytest.mark.nightly),
    pytest.param(MUON, MUON_NOISE, id="muon", marks=pytest.mark.nightly),
])  # fmt: skip
def test_sft_in_two_processes_gives_the_weights_of_one(scaled, changes, bound):
    made = ("models/sft", "plots/sft.csv", "metrics/sft.json")
    one, two = (scaled.outcome("stages.sft", changes, n, *made) for n in (1, 2))
    base = load_file(scaled.folder / "models/base/model.safetensors")
    weights = [load_file(folder / "models/sft/model.safetensors") for folder in (one, two)]
    noise, learned = apart(*weights), apart(base, weights[0])
    print(f"difference {noise:.1e}, learned {learned:.1e}")
    assert noise < bound and learned > 4 * bound
    for a, b in zip(*(curve(folder / "plots/sft.csv") for folder in (one, two)), strict=True):
        assert a == pytest.approx(b, rel=50 * bound, abs=bound)
    assert scaled.said.count("sft: done") == 1 and "Warning" not in scaled.said


@pytest.mark.long
def test_evaluation_in_two_processes_gives_the_very_samples_of_one(scaled):
    made = ("samples/grpo.jsonl", "samples/grpo.json", "metrics/evaluate/grpo.json")
    one, two = (scaled.outcome("stages.evaluate grpo", {}, n, *made) for n in (1, 2))
    samples = read(one / made[0])
    assert len(samples) == 12 and all(len(sample["samples"]) == 2 for sample in samples)
    for name in made[:2]:
        assert (one / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.nightly
def test_distillation_in_two_processes_samples_the_same_and_trains_the_same(scaled):
    (scaled.folder / "rollouts").mkdir(exist_ok=True)
    (scaled.folder / "rollouts/grpo.jsonl").touch()  # none of grpo's: the teacher samples them all
    made = ("rollouts/teacher.jsonl", "models/student")
    one, two = (scaled.outcome("stages.distill", {}, n, *made) for n in (1, 2))
    assert len(read(one / made[0])) == 600
    assert (one / made[0]).read_bytes() == (two / made[0]).read_bytes()
    weights = [load_file(folder / "models/student/model.safetensors") for folder in (one, two)]
    assert apart(*weights) < NOISE


REPLAY = {
    "grpo": {"max_steps": 4, "preflight": "off", "max_completion_length": 40,
             "curriculum": {"watch": "data/raw/README.md"}},
}  # fmt: skip


def replayed(processes: int, changes: dict) -> tuple[dict, list[dict], list[dict]]:
    """Weights, curve and rollouts of a training on given completions, in the working folder."""
    small_grpo.params_with({**changes, "launch": {"processes": processes}})
    several = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command = [sys.executable, "-m", *(several if processes > 1 else []), "tests.replayed"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    weights = load_file("models/adapter/adapter_model.safetensors")
    return weights, curve(Path("plots/grpo.csv")), read(Path("rollouts/grpo.jsonl"))


@pytest.mark.parametrize("changes", [
    pytest.param({}, id="a batch", marks=pytest.mark.nightly),
    pytest.param({"batch_size": 8, "gradient_accumulation_steps": 2,
                  "rewards": {"format": {"weight": 0.0}}},
                 id="accumulated, groups that earn the same", marks=pytest.mark.long),
    pytest.param({"pass_at": 2, "trainer": {"scale_rewards": "none"}}, id="the best of two",
                 marks=pytest.mark.nightly),
])  # fmt: skip
def test_grpo_on_the_same_completions_in_two_processes_gives_the_weights_of_one(
    tmp_path, monkeypatch, changes
):
    """Two epochs of the prompts; sampling itself draws other numbers in each process."""
    monkeypatch.chdir(small_grpo.project(tmp_path, rounds=2))
    changes = merged(REPLAY, {"grpo": changes})
    one, two = replayed(1, changes), replayed(2, changes)
    assert one[2] == two[2] and len(one[2]) == 64
    assert {row["reward"] for row in one[2]} > {0.0}
    assert any(row.get("dead_groups") for row in one[1]) == ("rewards" in changes["grpo"])
    noise = apart(one[0], two[0])
    learned = max(w.abs().max().item() for name, w in one[0].items() if "lora_B" in name)  # from 0
    print(f"difference {noise:.1e}, learned {learned:.1e}")
    assert noise < ADAM_NOISE and learned > 100 * ADAM_NOISE
    for a, b in zip(one[1], two[1], strict=True):
        assert a["grad_norm"] > 0
        # TRL's is a mean of means, each of one process's micro-batch
        assert a.pop("entropy") == pytest.approx(b.pop("entropy"), rel=1e-2)
        assert a == pytest.approx(b, rel=1e-3, abs=1e-6)


@pytest.mark.long
def test_grpo_in_two_processes_samples_whole_groups_of_the_same_prompts(tmp_path, monkeypatch):
    folder = small_grpo.project(tmp_path, rounds=20)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", "")
    seen = []
    for processes in (1, 2):
        small_grpo.params_with({"launch": {"processes": processes}, "grpo": {"max_steps": 4}})
        done = subprocess.run([sys.executable, "-m", "stages.grpo"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        seen.append(read(Path("rollouts/grpo.jsonl")))
        assert all(torch.isfinite(torch.tensor(list(row.values()))).all()
                   for row in curve(Path("plots/grpo.csv")))  # fmt: skip
        assert Path("models/adapter/adapter_model.safetensors").exists()
    counts = [Counter((row["step"], row["question"]) for row in rows) for rows in seen]
    assert counts[0] == counts[1] and set(counts[0].values()) == {4}
    second = [row["completion"] for row in seen[1] if row["step"] == 1]
    assert second[:8] != second[8:], "the second process draws numbers of its own"


def complete(stage: str) -> str:
    return f".cache/checkpoints/{stage}/*/checkpoint-*/complete.json"


def a_checkpoint(
    folder: Path, stage: str, process: subprocess.Popen, after: int = 1
) -> list[psutil.Process]:
    """Waits for one of so many steps; the processes that there are then."""
    deadline = time.monotonic() + 120
    while not any(checkpoints.step(p.parent) >= after for p in folder.glob(complete(stage))):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.nightly
def test_a_killed_grpo_in_two_processes_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    """From the middle of its second epoch, which has an order of its own."""
    folder = small_grpo.project(tmp_path, rounds=20)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", "")
    changes = {"launch": {"processes": 2}, "run": {"checkpoint_seconds": 0},
               "grpo": {"max_steps": 30, "preflight": "off"}}  # fmt: skip
    small_grpo.params_with(changes)
    command = [sys.executable, "-m", "stages.grpo"]
    made = [Path("models/adapter/adapter_model.safetensors"), Path("rollouts/grpo.jsonl")]
    outcomes = []
    for killed in (False, True):
        if killed:
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            workers = a_checkpoint(folder, "grpo", process, after=4)
            process.kill()
            process.wait()
            assert not psutil.wait_procs(workers, timeout=60)[1]
            assert not made[0].exists()
            at = in_the_middle_of_an_epoch(folder)
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert not killed or f"going on from step {at}" in done.stderr
        outcomes.append([path.read_bytes() for path in made])
        shutil.rmtree("models/adapter")
    assert outcomes[0] == outcomes[1]


def in_the_middle_of_an_epoch(folder: Path) -> int:
    """The step of the newest checkpoint that is there; newer ones go. An epoch has two steps."""
    steps = sorted(checkpoints.step(path.parent) for path in folder.glob(complete("grpo")))
    at = max(step for step in steps if step % 2)
    for path in folder.glob(f".cache/checkpoints/grpo/*/checkpoint-{at + 1}"):
        shutil.rmtree(path)
    return at


@pytest.mark.parametrize("ended_by", [
    pytest.param(signal.SIGKILL, marks=pytest.mark.nightly),
    pytest.param(signal.SIGTERM, marks=pytest.mark.long),
])  # fmt: skip
def test_no_process_outlives_the_one_that_started_them(scaled, ended_by):
    scaled.given({"sft": {"max_steps": 100_000}}, 2)
    shutil.rmtree(scaled.folder / ".cache/checkpoints/sft", ignore_errors=True)
    process = subprocess.Popen([sys.executable, "-m", "stages.sft"], cwd=scaled.folder,
                               env=scaled.environment(), stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        workers = a_checkpoint(scaled.folder, "sft", process)
        assert sum("stages.sft" in " ".join(w.cmdline()) for w in workers) == 2
        process.send_signal(ended_by)
        assert process.wait(60) == (-signal.SIGKILL if ended_by == signal.SIGKILL else 143)
    finally:
        process.kill()
    assert not psutil.wait_procs(workers, timeout=60)[1]


# --- what needs no second process -----------------------------------------------------------------


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.name)
def test_a_preset_is_what_accelerate_takes(file, monkeypatch):
    from accelerate.commands import launch as accelerates
    from accelerate.commands.config import load_config_from_file
    from accelerate.utils import FullyShardedDataParallelPlugin

    config = load_config_from_file(str(file))
    asked = parameters.Launch(processes=2, accelerate=str(file))
    assert launch.engine(asked) == {"fsdp2": "FSDP", "multi_gpu": "DDP"}.get(
        file.stem, file.stem.upper()
    )
    options = ["--config_file", str(file), "--num_processes", "2", "-m", "stages.sft"]
    parsed, *_ = accelerates._validate_launch_command(
        accelerates.launch_command_parser().parse_args(options)
    )
    assert parsed.num_processes == 2
    if config.fsdp_config:
        for name, value in accelerates.prepare_multi_gpu_env(parsed).items():
            monkeypatch.setenv(name, value)
        plugin = FullyShardedDataParallelPlugin()
        assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
        assert str(plugin.state_dict_type) == "StateDictType.SHARDED_STATE_DICT"
    if config.deepspeed_config:
        assert parsed.use_deepspeed and parsed.zero_stage == int(file.stem[-1])


def test_there_is_a_preset_for_each_engine():
    assert [file.stem for file in PRESETS] == ["fsdp2", "multi_gpu", "zero2", "zero3"]


def test_a_process_starts_others_only_where_several_are_asked_for(monkeypatch):
    for name in ("WORLD_SIZE", launch.STARTED):
        monkeypatch.delenv(name, raising=False)
    two = parameters.Launch(processes=2)
    assert launch.to_start("sft", two) and launch.to_start("evaluate@grpo", two)
    assert launch.to_start("distill_also@logits", two)
    assert not launch.to_start("merge", two)
    assert not launch.to_start("sft", parameters.Launch())
    assert launch.to_start("sft", parameters.Launch(accelerate="presets/accelerate/fsdp2.yaml"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not launch.to_start("sft", two)


@pytest.mark.parametrize(
    ("stage", "asked", "started", "says"),
    [("sft", 2, "1", "asks for 2, and 1 started"), ("sft", 2, "4", "asks for 2, and 4 started"),
     ("merge", 2, "2", "runs in one process, and 2 started")],
)  # fmt: skip
def test_another_number_of_processes_than_asked_for_stops(monkeypatch, stage, asked, started, says):
    monkeypatch.setenv("WORLD_SIZE", started)
    with pytest.raises(UserError, match=says):
        launch.join(stage, parameters.Launch(processes=asked))


def test_a_model_is_rebuilt_from_gathered_weights():
    """What is done after FSDP and ZeRO-3, with the weights of a model that is whole."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=40, hidden_size=64, num_hidden_layers=1, intermediate_size=32,
                         num_attention_heads=2, tie_word_embeddings=True)  # fmt: skip
    plain = LlamaForCausalLM(config)
    adapted = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=2, target_modules="all-linear"))
    for model in (plain, adapted):
        made = training.rebuilt(model, model.state_dict())
        assert type(made) is type(model)
        assert apart(dict(made.state_dict()), dict(model.state_dict())) == 0


def test_two_launches_do_not_share_checkpoints(project, tiny, monkeypatch):
    from stages.core import resume

    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(resume, "md5", lambda path: "")
    keys = []
    for processes in (1, 2):
        project.write(merged(tiny, {"launch": {"processes": processes}}))
        keys.append(resume.key("sft"))
    assert keys[0] != keys[1]


@pytest.mark.parametrize("file", ["fsdp2", "zero3"])
def test_what_cannot_be_spread_is_refused(raw, file, monkeypatch):
    monkeypatch.setattr(launch, "find_spec", lambda name: name)
    changes = {"launch": {"accelerate": str(ROOT / f"presets/accelerate/{file}.yaml")}}
    muon = parameters.validate(merged(raw, changes), "params.yaml")
    with pytest.raises(UserError, match="muon needs whole matrices"):
        launch.check_engine("sft", muon)
    changes |= {"grpo": {"quantize": "nf4"}}
    with pytest.raises(UserError, match="4-bit"):
        launch.check_engine("grpo", parameters.validate(merged(raw, changes), "params.yaml"))
