"""report: the comparison. A table, what changed in words, flips on identical problems, curves.

Writes reports/summary.json for programs, report.md and a self-contained report.html for people and
table.txt for the terminal, and registers the final models.
"""

import csv
import html
import io
import json
import time
from pathlib import Path

import psutil

from stages.core import stage
from stages.core.errors import UserError
from stages.core.files import read_rows, write_json, write_text
from stages.core.params import Params
from stages.core.stage import Run
from stages.core.statistics import mcnemar, paired_difference

REPORTS = Path("reports")
MODELS = {
    "base": "before any training, the prompt alone",
    "sft": "after supervised training on demonstrations",
    "control": "the SFT model made to show its working",
    "grpo": "after GRPO, adapter merged",
    "student": "distilled from the GRPO model's verified samples",
}
PAIRS = (("base", "sft"), ("sft", "grpo"), ("control", "grpo"), ("grpo", "student"))


def body(params: Params, run: Run) -> dict:
    task = params.task.name
    scores = {model: metrics(f"evaluate/{model}") for model in MODELS}
    samples = {model: list(read_rows(Path(f"samples/{model}.jsonl"))) for model in MODELS}
    pairs = [compared(samples, before, after) for before, after in PAIRS]
    words = in_words(scores, pairs, task) + about_data(metrics("prepare"), metrics("merge"))
    table = table_rows(scores, task)

    charts = [accuracy_chart(scores, task), curve_chart(Path("plots/grpo.csv"))]
    write_text(REPORTS / "report.md", markdown(task, table, words, pairs))
    write_text(REPORTS / "report.html", page(task, table, words, pairs, charts))
    write_text(REPORTS / "table.txt", plain(table))
    write_json(REPORTS / "summary.json", summary(scores, task))
    for path in REPORTS.iterdir():
        run.artifact(path)
    run.summary({f"{m}.{task}.accuracy": s[task]["accuracy"] for m, s in scores.items()})
    run.register("grpo-policy", Path("models/grpo"))
    run.register("grpo-student", Path("models/student"))
    return {}


def metrics(name: str) -> dict:
    path = Path("metrics", f"{name}.json")
    if not path.exists():
        raise UserError(f"{path} is missing: run the stage that makes it (`dvc repro`)")
    return json.loads(path.read_text())


def summary(scores: dict[str, dict], task: str) -> dict:
    """Parameters and scores of each model, and each stage's wall seconds."""
    kept = ("n", "accuracy", "low", "high", "format_compliance_rate", "shows_working")
    models = {
        model: {
            "parameters": score["parameters"],
            "tasks": {task: {key: score[task][key] for key in kept}},
        }
        for model, score in scores.items()
    }
    return {"models": models, "seconds": seconds()}


def seconds() -> dict[str, float]:
    """DVC stage -> wall seconds of its last run, from the start of its process."""
    files = sorted(Path("metrics").rglob("*.json"))
    spent = {
        "@".join(path.relative_to("metrics").with_suffix("").parts): metrics_seconds(path)
        for path in files
        if path.stem != "report"
    }
    spent["report"] = round(time.time() - psutil.Process().create_time(), 2)
    return spent


def metrics_seconds(path: Path) -> float:
    return json.loads(path.read_text())["seconds"]


def compared(samples: dict[str, list[dict]], before: str, after: str) -> dict:
    """Two models on the same problems: flips, difference with its interval, exact p-value."""
    was = {row["question"]: row["correct"] for row in samples[before]}
    pairs = [(was[r["question"]], r["correct"]) for r in samples[after] if r["question"] in was]
    gained = sum(not b and a for b, a in pairs)
    lost = sum(b and not a for b, a in pairs)
    difference, low, high = paired_difference(gained, lost, len(pairs))
    return {
        "before": before, "after": after, "n": len(pairs), "gained": gained, "lost": lost,
        "difference": difference, "low": low, "high": high, "p": mcnemar(gained, lost),
    }  # fmt: skip


def in_words(scores: dict[str, dict], pairs: list[dict], task: str) -> list[str]:
    """What GRPO changed, what it did not, and what the student kept."""
    by_pair = {(pair["before"], pair["after"]): pair for pair in pairs}
    sft, grpo, student = (scores[model][task] for model in ("sft", "grpo", "student"))
    share = scores["student"]["parameters"] / scores["grpo"]["parameters"]
    return [
        f"GRPO changed accuracy by {difference(by_pair['sft', 'grpo'])} against SFT. The share of "
        f"completions that show their working went from {sft['shows_working']:.0%} to "
        f"{grpo['shows_working']:.0%}.",
        against_control(by_pair["control", "grpo"]),
        f"The student has {share:.0%} of its teacher's parameters and reaches "
        f"{ratio(student['accuracy'], grpo['accuracy'])} of its accuracy.",
    ]


def against_control(pair: dict) -> str:
    """Elicited or learned? The SFT model made to show its working is the yardstick."""
    start = f"Against the SFT model made to show its working the difference is {difference(pair)}: "
    if pair["low"] > 0:
        return start + "GRPO did more than elicit worked solutions, it made them right more often."
    if pair["high"] < 0:
        return start + "GRPO is worse than just making the SFT model show its working."
    return start + (
        "within noise. GRPO elicits worked solutions, which the SFT model could already write; "
        "that it added skill is not shown."
    )


def about_data(prepare: dict, merge: dict) -> list[str]:
    lines = []
    if (seen := prepare["test_chains_seen_in_training"]) is not None:
        lines.append(
            f"{prepare['test']} held-out problems; none of their questions is in training data, "
            f"and {seen:.1%} of their exact arithmetic chains are."
        )
    lines.append(
        f"The merged model equals the unmerged one: largest logit difference "
        f"{merge['max_logit_diff']:.1g}, top-1 agreement {merge['top1_agreement']:.2%}."
    )
    return lines


def difference(pair: dict) -> str:
    points = [100 * pair[key] for key in ("difference", "low", "high")]
    return "{:+.1f} points [{:+.1f}, {:+.1f}]".format(*points)


def ratio(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "no share"


def table_rows(scores: dict[str, dict], task: str) -> list[list[str]]:
    rows = [["model", "parameters", "accuracy", "95 % interval", "format", "what it is"]]
    for model, what in MODELS.items():
        s = scores[model][task]
        rows.append([
            model, f"{scores[model]['parameters']:,}", f"{s['accuracy']:.3f}",
            f"[{s['low']:.3f}, {s['high']:.3f}]", f"{s['format_compliance_rate']:.3f}", what,
        ])  # fmt: skip
    return rows


def pair_rows(pairs: list[dict]) -> list[list[str]]:
    rows = [["from", "to", "gained", "lost", "difference [95 %]", "McNemar p"]]
    for pair in pairs:
        rows.append([pair["before"], pair["after"], str(pair["gained"]), str(pair["lost"]),
                     difference(pair), f"{pair['p']:.2g}"])  # fmt: skip
    return rows


def plain(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)) for r in rows]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def markdown(task: str, table: list[list[str]], words: list[str], pairs: list[dict]) -> str:
    paragraphs = "\n\n".join(words)
    return (
        f"# {task}: base, SFT, GRPO, student\n\n{markdown_table(table)}\n\n{paragraphs}\n\n"
        f"## The same problems, before and after\n\n{markdown_table(pair_rows(pairs))}\n"
    )


def markdown_table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .3rem .8rem; border-bottom: 1px solid #ddd }
svg { max-width: 100%; height: auto }
"""


def page(
    task: str, table: list[list[str]], words: list[str], pairs: list[dict], charts: list[str]
) -> str:
    """One HTML page that needs nothing else, neither files nor network."""
    title = html.escape(f"{task}: base, SFT, GRPO, student")
    paragraphs = "".join(f"<p>{html.escape(line)}</p>" for line in words)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style><h1>{title}</h1>{html_table(table)}{paragraphs}{charts[0]}"
        f"<h2>The same problems, before and after</h2>{html_table(pair_rows(pairs))}"
        f"<h2>GRPO, step by step</h2>{charts[1]}</html>\n"
    )


def html_table(rows: list[list[str]]) -> str:
    def line(row: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"

    return f"<table>{line(rows[0], 'th')}{''.join(line(row, 'td') for row in rows[1:])}</table>"


def accuracy_chart(scores: dict[str, dict], task: str) -> str:
    """Accuracy with its interval, a dot a model, as SVG."""
    figure, axes = new_figure()
    for x, model in enumerate(MODELS):
        s = scores[model][task]
        errors = [[s["accuracy"] - s["low"]], [s["high"] - s["accuracy"]]]
        axes.errorbar(x, s["accuracy"], errors, fmt="o", capsize=4, color="#2458a6")
    axes.set_xticks(range(len(MODELS)), list(MODELS))
    axes.set_ylim(0, 1)
    axes.set_ylabel("accuracy, 95 % interval")
    return svg(figure)


def curve_chart(path: Path) -> str:
    """Reward, accuracy and working shown during GRPO, as SVG."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    figure, axes = new_figure()
    for name in ("mean_reward", "accuracy", "shows_working", "format_compliance_rate"):
        points = [(int(r["step"]), float(r[name])) for r in rows if r.get(name)]
        if points:
            wide = name == "mean_reward"  # it often equals one of the others
            axes.plot(*zip(*points, strict=True), label=name, lw=5 if wide else 1.5,
                      alpha=0.4 if wide else 1)  # fmt: skip
    axes.set_xlabel("step")
    axes.legend(frameon=False)
    return svg(figure)


def new_figure() -> tuple:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    return figure, axes


def svg(figure) -> str:
    """The figure as inline SVG: without date and with fixed ids, the same bits every time."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "report"}):
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue().partition("<svg")[1] + out.getvalue().partition("<svg")[2]


if __name__ == "__main__":
    stage.main("report", body)
