"""report: the comparison. Is each model better than the one before, by how much, and on which
problems; what training did; what it cost; where every number comes from.

Writes reports/report.md and a self-contained report.html for people, their pictures as PNG,
summary.json for programs and table.txt for the terminal, and registers the final models. With
`report.fail_if_worse` it then fails where GRPO is worse than SFT.
"""

import json
import time
from pathlib import Path

import psutil

from stages.core import stage
from stages.core.errors import UserError
from stages.core.files import read_rows, write_json, write_text
from stages.core.params import Params
from stages.core.stage import Run
from stages.core.tracking import flat
from stages.reporting import charts, lineage, otherwise, page, pairs, scores, training
from stages.reporting.lineage import Source
from stages.reporting.page import (
    Alarm,
    Badge,
    Charts,
    Folded,
    Heading,
    Link,
    Note,
    Table,
    Text,
    Verdicts,
    anchor,
)
from stages.reporting.pairs import Pair
from stages.reporting.scores import MODELS

REPORTS = Path("reports")
ROLLOUTS = Path("rollouts/grpo.jsonl")
LIBRARIES = ("matplotlib.figure", "matplotlib.backends.backend_agg")

Scores = dict[str, dict]  # model -> its metrics
Samples = dict[str, dict[str, list[dict]]]  # task -> model -> rows


def body(params: Params, run: Run) -> dict:
    evaluations = stages_of(params)
    every = {model: evaluated(model, name) for model, name in evaluations.items()}
    mains = main_models(params)
    found = {model: every[model] for model in mains}
    tasks = scores.tasks_of(found)
    if not tasks:
        raise UserError("metrics/evaluate/*.json name no task: `dvc repro` runs the evaluation")
    all_samples = by_task({model: read_samples(model, tasks) for model in evaluations}, tasks)
    samples = {task: {model: rows[model] for model in mains}
               for task, rows in all_samples.items()}  # fmt: skip
    compared = pairs.all_pairs(samples, list(params.report.trained_otherwise))
    against = otherwise.against_main(all_samples, list(params.report.students))
    source = lineage.read(evaluations.values())
    spent = stage_metrics(source)
    weights = {name: reward.weight for name, reward in params.grpo.rewards.items()}
    fell_back = spent.get("distill", {}).get("fell_back")
    what = scores.WHAT | ({otherwise.MAIN: scores.FELL_BACK} if fell_back else {})

    blocks = [
        *verdicts(found, compared),
        *results(found, tasks, samples, compared, what),
        *taught_otherwise(params, every, tasks, against),
        *curves(weights),
        *diagnosis(spent),
        *cost(spent),
        *origins(evaluations, source),
        *flips([*compared, *against]),
    ]
    title = f"{', '.join(tasks)}: base, SFT, GRPO, student"
    write_text(REPORTS / "report.md", page.markdown(title, blocks))
    write_text(REPORTS / "report.html", page.page(title, blocks))
    write_text(REPORTS / "table.txt", plain(scores.brief(every, tasks, what)))
    write_json(REPORTS / "summary.json", summary(every, tasks, [*compared, *against], spent))
    hand_over(run, every, tasks)
    if params.report.fail_if_worse and (harm := pairs.alarm(compared)):
        raise UserError(f"{harm}: see {REPORTS}/report.html, or set report.fail_if_worse to false")
    return {}


def stages_of(params: Params) -> dict[str, str]:
    """Model -> the DVC stage that evaluates it; without what the lists no longer name."""
    controls = params.report.trained_otherwise
    mains = {model: f"evaluate_control@{controls[model]}" if model in controls
             else f"evaluate@{model}" for model in main_models(params)}  # fmt: skip
    others = {model: f"evaluate_also@{how}" for model, how in params.report.students.items()}
    return mains | others


def main_models(params: Params) -> list[str]:
    """The models of the main table; those of report.controls stand behind the SFT model."""
    at = list(MODELS).index("sft") + 1
    return [*list(MODELS)[:at], *params.report.trained_otherwise, *list(MODELS)[at:]]


def metrics(name: str) -> dict:
    path = Path("metrics", f"{name}.json")
    if not path.exists():
        raise UserError(f"{path} is missing: run the stage that makes it (`dvc repro`)")
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise UserError(
            f"{path} is damaged: make it again (`dvc repro --force {name.replace('/', '@')}`)"
        ) from None


def evaluated(model: str, evaluation: str) -> dict:
    """A model's metrics, with the standard errors and intervals that stand beside its samples.

    `pass@8` of a task gets `pass@8_low`, `pass@8_high` and `pass@8_stderr`.
    """
    found, path = metrics(evaluation.replace("@", "/")), Path(f"samples/{model}.json")
    measures = json.loads(path.read_text()) if path.exists() else {}
    for task in measures.keys() & found.keys():
        found[task] |= {
            f"{name}_{what}": measure[what]
            for name, measure in measures[task].items()
            for what in ("low", "high", "stderr")
            if name != "accuracy"
        }
    return found


def read_samples(model: str, tasks: list[str]) -> list[dict]:
    """A model's rows, each with the number of its line; those that name no task are of the one."""
    rows = read_rows(Path(f"samples/{model}.jsonl"))
    return [{"task": tasks[0], **row, "line": i} for i, row in enumerate(rows, 1)]


def by_task(samples: dict[str, list[dict]], tasks: list[str]) -> Samples:
    return {
        task: {model: [row for row in rows if row["task"] == task]
               for model, rows in samples.items()}
        for task in tasks
    }  # fmt: skip


def hand_over(run: Run, found: Scores, tasks: list[str]) -> None:
    """Files, scores and models to the trackers."""
    for path in sorted(REPORTS.iterdir()):
        run.artifact(path)
    entries = scores.entries(found, tasks)
    run.summary({f"{model}.{task}.accuracy": s["accuracy"] for task, model, s in entries})
    run.table("results.json", [
        {"task": task, "model": model, "parameters": found[model]["parameters"], **flat(s)}
        for task, model, s in entries
    ])  # fmt: skip
    run.register("grpo-policy", Path("models/grpo"))
    run.register("grpo-student", Path("models/student"))


def summary(found: Scores, tasks: list[str], compared: list[Pair], spent: dict[str, dict]) -> dict:
    """Parameters and scores of each model, the comparisons, and each stage's wall seconds."""
    models = {
        model: {
            "parameters": score["parameters"],
            "tasks": {task: values(score[task]) for task in tasks if task in score},
        }
        for model, score in found.items()
    }
    report = round(time.time() - psutil.Process().create_time(), 2)
    seconds = {name: values["seconds"] for name, values in spent.items()}
    return {
        "models": models,
        "pairs": pairs.as_metrics(compared),
        "seconds": {**seconds, "report": report},
    }


def values(entry: dict) -> dict:
    """A task's scores without the many intervals that `dvc metrics diff` would list."""
    return {k: v for k, v in entry.items() if not k.endswith(("_low", "_high", "_stderr"))}


def stage_metrics(source: Source) -> dict[str, dict]:
    """DVC stage -> its metrics, of the stages that there are now; this one has none yet."""
    found = {
        "@".join(path.relative_to("metrics").with_suffix("").parts): path
        for path in sorted(Path("metrics").rglob("*.json"))
    }
    return {
        name: json.loads(path.read_text()) for name, path in found.items() if name in source.nodes
    }


def verdicts(found: Scores, compared: list[Pair]) -> list:
    """Better, worse or noise for each pair, and what follows; harm done by GRPO above all."""
    harm = pairs.alarm(compared)
    return [
        *([Alarm(f"{harm}. Keep the SFT model.")] if harm else []),
        Verdicts([(pair.verdict, pairs.in_words(pair)) for pair in compared]),
        *map(Text, about_grpo(found, compared)),
        *map(Text, about_data(metrics("prepare"), metrics("merge"))),
    ]


def about_grpo(found: Scores, compared: list[Pair]) -> list[str]:
    """What GRPO changed besides accuracy, whether it taught anything, what the student kept."""
    lines = []
    gained = {pair.task for pair in compared
              if (pair.before, pair.after, pair.verdict) == ("sft", "grpo", "better")}  # fmt: skip
    for pair in compared:
        was, now = (found[model][pair.task] for model in (pair.before, pair.after))
        match pair.before, pair.after:
            case "sft", "grpo" if "shows_working" in was and "shows_working" in now:
                lines.append(
                    f"On {pair.task} the share of completions that show their working went from "
                    f"{was['shows_working']:.0%} (SFT) to {now['shows_working']:.0%} (GRPO)."
                )
                lines += [said] if (said := pairs.reach(pair)) else []
            case before, "grpo" if before in scores.CONTROLS:
                lines.append(
                    f"Against {pairs.NAMES[before]} GRPO's difference on {pair.task} is "
                    f"{pairs.points(pair)}, {pair.verdict}."
                )
            case "control", "grpo":
                lines.append(
                    f"Against the SFT model made to show its working the difference on {pair.task} "
                    f"is {pairs.points(pair)}, {pair.verdict}. "
                    f"{pairs.against_control(pair.verdict, pair.task in gained)}"
                )
            case "grpo", "student":
                share = found["student"]["parameters"] / found["grpo"]["parameters"]
                lines.append(
                    f"The student has {share:.0%} of its teacher's parameters and on {pair.task} "
                    + ratio(now["accuracy"], was["accuracy"])
                )
    return lines


def about_data(prepare: dict, merge: dict) -> list[str]:
    lines = []
    if (seen := prepare["test_chains_seen_in_training"]) is not None:
        lines.append(
            f"The test split has {prepare['test']} problems; none of their questions is in "
            f"training data, and {seen:.1%} of their exact workings are."
        )
    if removed := prepare.get("contaminated"):
        lines.append(
            f"{removed} training problems that share text with problems of the evaluation were "
            "left out."
        )
    if "max_logit_diff" not in merge:
        return [*lines, "GRPO trained all weights: there was no adapter to merge."]
    lines.append(
        f"The merged model equals the unmerged one: largest logit difference "
        f"{merge['max_logit_diff']:.1g}, top-1 agreement {merge['top1_agreement']:.2%}."
    )
    return lines


def ratio(part: float, whole: float) -> str:
    return f"{part / whole:.0%} of its accuracy." if whole else "a teacher that solves nothing."


def results(
    found: Scores, tasks: list[str], samples: Samples, compared: list[Pair], what: dict[str, str]
) -> list:
    """Scores, pairs, levels and kinds of error; `what` says what each model is."""
    draw = charts.accuracy(found, tasks)
    charts.png(REPORTS / "accuracy.png", [draw])
    several, official = scores.sampled(found, tasks), scores.official(found)
    picture = Charts("accuracy.png", "accuracy of each model", [charts.svg("accuracy", draw)])
    blocks = [
        Heading("Results", "results"),
        Table(scores.full(found, tasks)),
        Note("; ".join(f"{model}: {what[model]}" for model in found) + "."),
        picture,
        *([Heading("Several samples a problem", "sampled"), Table(several)] if several else []),
        *([Table(changed)] if (changed := sampled_rows(compared)) else []),
        *([Heading("lm-eval's own tasks", "lm-eval"), Table(official)] if official else []),
        Heading("The same problems, before and after", "pairs"),
        Table(pair_rows(compared)),
        Note(
            "Differences are after minus before on the same problems; their 95 % intervals are "
            "paired bootstraps of 10,000 resamples (with fewer than 10 flips Agresti and Min's, "
            "for want of anything to draw from). p: McNemar's exact test, two-sided. Better or "
            "worse: the interval leaves out 0 and p is below 0.05, each pair judged by itself."
        ),
    ]
    for task, models in samples.items():
        if table := scores.by_level(models):
            change = [pairs.compared(task, "sft", "grpo", of_level(models, row[0]))
                      for row in table[1:]]  # fmt: skip
            added = ["GRPO - SFT", *(pairs.points(pair) if pair else "" for pair in change)]
            rows = [[*row, cell] for row, cell in zip(table, added, strict=True)]
            blocks += [Heading(f"By level: {task}", page.slug("levels", task)), Table(rows)]
    if table := scores.errors(samples):
        note = "Shares of all completions; sandbox: not judged, and in no accuracy."
        blocks += [Heading("Kinds of error", "errors"), Table(table), Note(note)]
    return blocks


def taught_otherwise(params: Params, found: Scores, tasks: list[str], against: list[Pair]) -> list:
    """The same student by the methods of report.compare; nothing where that is empty."""
    if not params.report.compare:
        return []
    others = params.report.students.items()
    students = {otherwise.MAIN: otherwise.taught(metrics("distill"))} | {
        model: otherwise.taught(metrics(f"distill_also/{how}")) for model, how in others
    }
    return [
        Heading("The same student, taught otherwise", "otherwise"),
        Verdicts(otherwise.verdicts(students, against)),
        Table(otherwise.table(found, tasks, students, against)),
        Note(
            "Differences to the first student on the same problems, judged as above. Size, first "
            "weights, steps and seed are the same. Each was trained once: how much another seed "
            "would change is in none of the intervals."
        ),
    ]


def of_level(models: dict[str, list[dict]], level: str) -> dict[str, list[dict]]:
    return {
        model: [row for row in rows if str(row.get("level")) == level]
        for model, rows in models.items()
    }


def pair_rows(compared: list[Pair]) -> list[list[page.Cell]]:
    """One row a pair; a column of the mean reward's difference where rewards were recorded."""
    rewarded = any(pair.reward for pair in compared)
    rows: list[list[page.Cell]] = [
        ["from", "to", "problems", "gained", "lost", "accuracy [95 %]", "McNemar p",
         *(["mean reward [95 %]"] if rewarded else []), "verdict"]
    ]  # fmt: skip
    for pair in compared:
        reward = interval(pair.reward) if pair.reward else ""
        rows.append([
            pair.before, pair.after, str(pair.n),
            Link(str(len(pair.gained)), anchor(pair, "gained")),
            Link(str(len(pair.lost)), anchor(pair, "lost")),
            pairs.points(pair), f"{pair.p:.2g}", *([reward] if rewarded else []),
            Badge(pair.verdict),
        ])  # fmt: skip
    return scores.with_task(rows, [pair.task for pair in compared])


def sampled_rows(compared: list[Pair]) -> list[list[page.Cell]]:
    """pass@1 and pass@k after minus before, a row a pair; nothing where one sample was drawn."""
    found = [pair for pair in compared if pair.sampled]
    names = list(dict.fromkeys(name for pair in found for name in pair.sampled))
    rows = [
        [pair.before, pair.after,
         *(pairs.in_points(pair.sampled[name]) if name in pair.sampled else "" for name in names)]
        for pair in found
    ]  # fmt: skip
    head = ["from", "to", *(f"{name} [95 %]" for name in names)]
    return scores.with_task([head, *rows], [pair.task for pair in found]) if found else []


def interval(values: pairs.Difference) -> str:
    """A difference with its interval, unless all problems have the same: then there is none."""
    difference, low, high = values
    return f"{difference:+.3f}" + (f" [{low:+.3f}, {high:+.3f}]" if low < high else "")


def curves(weights: dict[str, float]) -> list:
    """Training, step by step."""
    grpo = training.read_curves(Path("plots/grpo.csv"))
    shares = training.advantage_shares(read_rows(ROLLOUTS), weights)
    supervised = training.loss_panels(training.read_curves(Path("plots/sft.csv")),
                                      training.read_curves(Path("plots/distill.csv")))  # fmt: skip
    return [
        Heading("GRPO, step by step", "grpo"),
        drawn("grpo", "curves of GRPO", training.grpo_panels(grpo, shares)),
        *advantages(shares, weights, grpo),
        Heading("Supervised training", "supervised"),
        drawn("supervised", "losses of SFT and distillation", supervised),
    ]


def advantages(shares: dict, weights: dict[str, float], curves: dict) -> list:
    """The rewards' shares of the advantages, and what that means."""
    if not shares:
        return []
    return [
        Table(training.advantage_table(shares, weights, curves)),
        Note(
            "Share of the advantage: within a group, the covariance of weight x score with the "
            "total reward over the variance of the total; the mean over the groups of a step that "
            "have any variance, and in the table over all steps. Shares sum to 1; one below 0 "
            "pulls against the rest."
        ),
    ]


def drawn(name: str, shows: str, panels: list[training.Panel]) -> Charts:
    """The panels as SVG for the page, and all of them as reports/NAME.png."""
    draws = [charts.panel(panel) for panel in panels]
    charts.png(REPORTS / f"{name}.png", draws)
    svgs = [charts.svg(f"{name}-{i}", draw) for i, draw in enumerate(draws)]
    return Charts(f"{name}.png", shows, svgs)


def diagnosis(found: dict[str, dict]) -> list:
    """What was found while the models trained, with the remedy, and the targets of GRPO."""
    findings = training.finding_table(found)
    blocks: list = [Heading("What the doctor found", "doctor")]
    blocks.append(Table(findings) if len(findings) > 1 else Text("Nothing."))
    if targets := found.get("grpo", {}).get("targets"):
        blocks.append(Table(training.target_table(targets)))
        blocks.append(Note("Targets of GRPO, over the last log lines of training."))
    return blocks


def cost(spent: dict[str, dict]) -> list:
    """What each stage took, as far as its metrics say; this one's seconds are in summary.json."""
    columns = {"seconds": "seconds", "tokens": "tokens", "peak_memory_mb": "peak memory, MB",
               "peak_gpu_memory_mb": "peak GPU memory, MB"}  # fmt: skip
    there = [key for key in columns if any(key in values for values in spent.values())]
    rows = [["stage", *(columns[key] for key in there)]]
    rows += [
        [name, *(f"{values[key]:,.0f}" if key in values else "" for key in there)]
        for name, values in spent.items()
    ]
    total = sum(values["seconds"] for values in spent.values())
    rows.append(["all", f"{total:,.0f}", *[""] * (len(there) - 1)])
    return [Heading("Cost", "cost"), Table(rows)]


def origins(evaluations: dict[str, str], source: Source) -> list:
    """The lineage of every model's numbers."""
    return [
        Heading("Where the numbers come from", "lineage"),
        *(Folded(model, [Table(lineage.rows(name, source))])
          for model, name in evaluations.items()),
        Note(
            "md5 of the files as they lay here when this was written, in DVC's form: a folder's "
            "ends in .dir. Parameters and code: the md5 of JSON with all their values, and with "
            "all files' paths and hashes."
        ),
    ]  # fmt: skip


def flips(compared: list[Pair]) -> list:
    """The problems that were gained and lost, with what both models wrote."""
    blocks: list = [Heading("Problems gained and lost", "problems")]
    for pair in compared:
        for kind, both in (("gained", pair.gained), ("lost", pair.lost)):
            title = f"{pair.task}, {pair.before} to {pair.after}, {kind}"
            blocks.append(page.Problems(title, anchor(pair, kind), pair.before, pair.after, both))
    return blocks


def plain(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)) for r in rows]
    return "\n".join(line.rstrip() for line in lines) + "\n"


if __name__ == "__main__":
    stage.main("report", body, LIBRARIES)
