"""The flow, run in a toy checkout against a real Prefect server."""

import asyncio
import re
import shutil

import pytest
import yaml

from flows.pipeline import (
    PipelineError,
    Slots,
    plan,
    slot_environments,
    stages_ahead,
    survey,
)

STAGES = ["prepare", "left", "right", "evaluate@left", "evaluate@right", "report"]


def expected(state: str, **others: str) -> dict[str, str]:
    return dict.fromkeys(STAGES, state) | {
        name.replace("_", "@"): other for name, other in others.items()
    }


def test_what_has_not_changed_is_cached_and_not_run(checkout, run):
    outcome = run()
    assert outcome.state.is_completed()
    assert outcome.state.message == "6 stages: 0 ran, 6 cached"
    assert outcome.states == expected("Cached")
    assert {child.run_count for child in outcome.children.values()} == {0}  # they are born ended
    assert checkout.events() == {}


def test_a_changed_parameter_runs_what_it_affects(checkout, run):
    checkout.set(left=2)
    outcome = run()
    ran = {"left": "Completed", "evaluate_left": "Completed", "report": "Completed"}
    assert outcome.states == expected("Cached", **ran)
    assert list(checkout.events("end")) == ["left", "evaluate@left", "report"]
    assert "left 2" in (report := (checkout.root / "reports/report.md").read_text())
    assert report.startswith(outcome.shown) and "left 2" in outcome.shown
    assert "![" not in outcome.shown, "its figures are files beside it"
    assert "this is left" in outcome.log("left", until="Updating lock file")
    checkout.command("dvc", "status", "--quiet")  # exits with 1 if anything is left to do


def test_what_dvc_has_in_its_run_cache_is_cached(checkout, run):
    checkout.set(left=2)
    run(targets=["left"])
    checkout.set(left=1)
    outcome = run(targets=["left"])
    assert outcome.states == {"prepare": "Cached", "left": "Cached"}
    assert "is cached - skipping run" in outcome.children["left"].state.message
    assert "left 1" in (checkout.root / "left.txt").read_text()


@pytest.mark.parametrize("overrides", [[], ["left=2"]], ids=["the workspace", "an experiment"])
def test_what_was_made_elsewhere_is_pulled_and_not_run(checkout, run, tmp_path, overrides):
    checkout.command("dvc", "remote", "add", "--default", "team", str(tmp_path / "remote"))
    checkout.command("git", "commit", "-qam", "remote")
    if overrides:
        checkout.command("dvc", "exp", "run", "-S", *overrides)
        checkout.forget()
    checkout.command("dvc", "push", "--run-cache")
    checkout.command("git", "checkout", "-q", ".")
    shutil.rmtree(checkout.root / ".dvc/cache")
    for made in checkout.root.glob("*.txt"):
        made.unlink()
    outcome = run(pull=True, overrides=overrides)
    assert outcome.state.is_completed() and not checkout.events()
    if not overrides:
        assert "left 1" in (checkout.root / "reports/report.md").read_text()


def test_independent_stages_run_side_by_side(checkout, run):
    checkout.set(left=2, right=2)
    checkout.tell("left", "meet", "right")
    checkout.tell("right", "meet", "left")
    outcome = run()
    assert outcome.state.is_completed()
    start, end = checkout.events("start"), checkout.events("end")
    latest_start = max(start[name]["time"] for name in ("left", "right"))
    assert latest_start < min(end[name]["time"] for name in ("left", "right"))
    for name in ("left", "right"):
        assert start[name]["env"]["GRPO_PIPELINE_RUN"] == str(outcome.id)
        assert start[name]["env"]["OMP_NUM_THREADS"].isdigit()


def test_a_failure_stops_what_needs_it_and_nothing_else(checkout, run):
    checkout.set(left=2, right=2)
    checkout.tell("left", "fail")
    outcome = run()
    assert outcome.states == {
        "prepare": "Cached",
        "left": "Failed",
        "right": "Completed",
        "evaluate@right": "Completed",
    }
    assert outcome.state.is_failed()
    assert outcome.state.message.startswith("Stage 'left' failed with exit code 1")
    assert "left has no luck" in outcome.state.message
    assert outcome.state.message.endswith("Not started: evaluate@left, report.")


def test_a_failing_stage_is_tried_again(checkout, run):
    checkout.set(left=2)
    checkout.tell("left", "fail-once")
    outcome = run(targets=["left"], retries=1)
    assert outcome.states == {"prepare": "Cached", "left": "Completed"}
    assert outcome.children["left"].run_count == 2


def test_targets_are_run_with_what_they_need(checkout):
    assert plan(["left"]) == {"prepare": [], "left": ["prepare"]}
    assert set(plan(["evaluate"])) == set(STAGES) - {"report"}
    assert set(plan(["evaluate@right"])) == {"prepare", "right", "evaluate@right"}
    assert set(plan([])) == set(STAGES)
    assert set(plan([])["report"]) == {"evaluate@left", "evaluate@right"}


def test_one_look_finds_what_is_as_it_was_and_what_it_hangs_on(checkout):
    assert survey([], look=True) == (plan([]), set(STAGES))
    assert survey([], look=False) == (plan([]), set())
    checkout.set(left=2)
    assert survey([], look=True)[1] == {"prepare", "right", "evaluate@right"}
    (checkout.root / "prepare.txt").unlink()
    assert survey([], look=True)[1] == set()


def test_a_stage_is_looked_at_again_once_what_it_needs_is_back(checkout, run):
    (checkout.root / "prepare.txt").unlink()
    outcome = run(targets=["left"])
    assert outcome.states == {"prepare": "Cached", "left": "Cached"}
    assert "is cached - skipping run" in outcome.children["prepare"].state.message
    assert outcome.children["left"].state.message == "unchanged since it last ran"


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("evalute", "evaluate"), ("evaluate@lef", "evaluate@left")]
)
def test_an_unknown_target_is_refused_with_the_nearest_name(checkout, wrong, nearest):
    with pytest.raises(PipelineError, match=f"{wrong!r}; did you mean {nearest!r}"):
        plan([wrong])


def test_what_the_flow_refuses_is_its_failure_in_a_sentence(run):
    outcome = run(targets=["repot"])
    assert outcome.state.is_failed()
    assert outcome.state.message == "dvc.yaml has no stage 'repot'; did you mean 'report'?"
    outcome = run(overrides=["left"])
    assert outcome.state.message == "the override 'left' is not of the form key=value"
    outcome = run(overrides=["lift=2"])
    assert outcome.state.message == ("Invalid `--set-param` value: Could not override 'lift'.")
    assert outcome.children == {}


def test_force_runs_what_has_not_changed(checkout, run):
    outcome = run(targets=["left"], force=True)
    assert outcome.states == {"prepare": "Completed", "left": "Completed"}
    assert list(checkout.events("end")) == ["prepare", "left"]


def test_overrides_make_an_experiment_and_leave_the_workspace_alone(checkout, run):
    outcome = run(overrides=["left=7"])
    ran = {"left": "Completed", "evaluate_left": "Completed", "report": "Completed"}
    assert outcome.states == expected("Cached", **ran)
    assert "this is left" in outcome.log("left", until="Updating lock file")
    assert checkout.command("git", "status", "--porcelain") == ""
    name = re.match(r"experiment (\S+): 6 stages: 3 ran, 3 cached", outcome.state.message)[1]
    assert "left 7" in outcome.shown
    assert name in outcome.run.tags
    assert name in checkout.command("dvc", "exp", "list", "--name-only")
    checkout.command("dvc", "exp", "apply", name)
    assert yaml.safe_load((checkout.root / "params.yaml").read_text())["left"] == 7
    assert "left 7" in (checkout.root / "reports/report.md").read_text()


def test_an_experiment_that_fails_is_tried_again(checkout, run):
    checkout.tell("left", "fail")
    outcome = run(overrides=["left=7"], targets=["left"])
    assert outcome.states == {"prepare": "Cached", "left": "Failed"}
    assert "left has no luck" in outcome.state.message
    (checkout.notes / "left.fail").rename(checkout.notes / "left.fail-once")
    outcome = run(overrides=["left=7"], targets=["left"], retries=1)
    assert outcome.state.is_completed()
    assert checkout.command("git", "status", "--porcelain") == ""


def test_a_tracked_file_has_a_run_too(checkout, run):
    (checkout.root / "data").mkdir()
    (checkout.root / "data" / "raw.txt").write_text("raw")
    checkout.command("dvc", "add", "data/raw.txt")
    text = (checkout.root / "dvc.yaml").read_text()
    text = text.replace(
        "cmd: python stage.py\n", "cmd: python stage.py\n    deps: [data/raw.txt]\n"
    )
    (checkout.root / "dvc.yaml").write_text(text)
    outcome = run(targets=["prepare"])
    assert outcome.states == {"data:raw.txt.dvc": "Cached", "prepare": "Completed"}


@pytest.mark.parametrize(
    ("setting", "environment", "slots"),
    [
        ("auto", {"CUDA_VISIBLE_DEVICES": "3"}, [{}]),
        (1, {"CUDA_VISIBLE_DEVICES": "3,5"}, [{}]),
        (
            "auto",
            {"CUDA_VISIBLE_DEVICES": "3,5"},
            [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}],
        ),
        (2, {"CUDA_VISIBLE_DEVICES": "3"}, [{"CUDA_VISIBLE_DEVICES": "3"}] * 2),
        (2, {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "9"}, [{"OMP_NUM_THREADS": "9"}] * 2),
        (1000, {"CUDA_VISIBLE_DEVICES": ""}, [{"OMP_NUM_THREADS": "1"}] * 1000),
    ],
)
def test_a_slot_has_a_gpu_or_a_share_of_the_cores(
    checkout, monkeypatch, setting, environment, slots
):
    checkout.set(run={"max_parallel": setting})
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert slot_environments() == slots


@pytest.mark.parametrize(
    ("setting", "gpus", "processes", "groups"),
    [
        ("auto", "0,1,2,3", 2, ["0,1", "2,3"]),
        ("auto", "4,5,6,7,8", 2, ["4,5", "6,7"]),
        (3, "0,1,2,3", 2, ["0,1", "2,3", "0,1"]),
        (2, "0,1,2,3", 4, ["0,1,2,3"] * 2),
        (2, "0,1", 4, ["0,1"] * 2),  # too few: the stage says so
        ("auto", "0,1,2,3", 4, None),
        ("auto", "0,1", 4, None),
    ],
)
def test_a_slot_has_a_gpu_for_each_process_of_a_stage(
    checkout, monkeypatch, setting, gpus, processes, groups
):
    checkout.set(run={"max_parallel": setting}, launch={"processes": processes})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    wanted = [{"CUDA_VISIBLE_DEVICES": group} for group in groups] if groups else [{}]
    assert slot_environments() == wanted


def test_the_processes_of_a_stage_share_its_cores(checkout, monkeypatch):
    checkout.set(run={"max_parallel": 2}, launch={"processes": 2})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert slot_environments() == [{"OMP_NUM_THREADS": "2"}] * 2


def test_the_stage_with_the_longest_chain_before_it_comes_first():
    needs = {"prepare": [], "sft": ["prepare"], "also": ["prepare"], "grpo": ["sft"],
             "evaluate": ["grpo", "also"], "look": ["sft"]}  # fmt: skip
    assert stages_ahead(needs) == {
        "prepare": 4, "sft": 3, "also": 2, "grpo": 2, "evaluate": 1, "look": 1,
    }  # fmt: skip


def test_a_slot_goes_to_whoever_has_the_longest_way_even_if_it_comes_a_moment_later():
    async def taken() -> list[str]:
        slots, order = Slots([{"SLOT": "1"}]), []

        async def stage(name: str, way: int, *then: tuple[str, int]) -> None:
            slot = await slots.take(way)
            order.append(name)
            slots.give_back(slot)
            await asyncio.gather(*(stage(*further) for further in then))

        await asyncio.gather(
            stage("look", 1), stage("also", 2), stage("sft", 3, ("grpo", 2), ("merge", 3))
        )
        return order

    assert asyncio.run(taken()) == ["sft", "merge", "also", "grpo", "look"]


def test_who_gives_up_waiting_leaves_the_slot_to_the_next():
    async def got() -> tuple[dict, dict]:
        slots = Slots([{"SLOT": "1"}])
        first = await slots.take(1)
        given_up, waiting = (asyncio.create_task(slots.take(way)) for way in (9, 1))
        await asyncio.sleep(0)
        given_up.cancel()
        slots.give_back(first)
        return first, await asyncio.wait_for(waiting, 60)

    first, second = asyncio.run(got())
    assert first is second


@pytest.mark.parametrize("wrong", [0, -1, "many", 1.5, True, None])
def test_a_senseless_max_parallel_is_refused(checkout, wrong):
    checkout.set(run={"max_parallel": wrong})
    with pytest.raises(PipelineError, match=r"run.max_parallel is .*; it must be"):
        slot_environments()


@pytest.mark.parametrize("wrong", [0, "4", True, None])
def test_a_senseless_number_of_processes_is_refused(checkout, wrong):
    checkout.set(launch={"processes": wrong})
    with pytest.raises(PipelineError, match=r"launch.processes is .*; it must be a count"):
        slot_environments()
