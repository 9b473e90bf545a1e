"""The report's pictures: inline SVG for the page, PNG beside it; the same bits every time."""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.files import replacing
from stages.reporting.scores import entries
from stages.reporting.training import Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2458a6", "#c4572b", "#3c8a4e", "#8a4fa3", "#a8871b", "#4a9aa8", "#7a7a7a")
# Behind the gaps of a broken line a curve that equals it is still seen.
LINES = ("-", (0, (5, 3)), (0, (1.5, 2)), (0, (8, 2, 1.5, 2)))
SIZE = (4.6, 2.9)  # inches, of one panel

Draw = Callable[["Axes"], None]


@contextmanager
def settings() -> Iterator[None]:
    """Text stays text (and no formula), ids hang on nothing but the picture."""
    import matplotlib

    with matplotlib.rc_context(
        {"svg.hashsalt": "report", "svg.fonttype": "none", "text.parse_math": False, "font.size": 9}
    ):
        yield


def svg(name: str, draw: Draw) -> str:
    """One panel as an SVG element; its ids begin with `name`, so that several fit on a page."""
    with settings():
        out = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure([draw], 1).savefig(out, format="svg", metadata=no_metadata)
    element = "<svg" + out.getvalue().partition("<svg")[2]
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", element)


def png(path: Path, draws: list[Draw]) -> None:
    """The panels side by side, two a row; a picture that says so where there is none."""
    with settings(), replacing(path) as beside:
        figure(draws or [nothing], 1 if len(draws) < 2 else 2).savefig(
            beside, format="png", dpi=150, metadata={"Software": None}
        )


def figure(draws: list[Draw], columns: int) -> "Figure":
    from matplotlib.figure import Figure

    rows = -(-len(draws) // columns)
    made = Figure(figsize=(SIZE[0] * columns, SIZE[1] * rows), layout="constrained")
    places = made.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axes, draw in zip(places, draws, strict=False):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        draw(axes)
    for axes in places[len(draws) :]:
        axes.set_visible(False)
    return made


def nothing(axes: "Axes") -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, "nothing was recorded", ha="center")


def panel(shown: Panel) -> Draw:
    """Curves over the steps; a curve of few points shows each of them."""

    def draw(axes: "Axes") -> None:
        looks = zip(cycle(COLOURS), cycle(LINES), shown.curves.items(), strict=False)
        for colour, line, (name, points) in looks:
            axes.plot(*zip(*points, strict=True), label=name, color=colour, ls=line, lw=1.7,
                      marker="o" if len(points) < 10 else "", markersize=3)  # fmt: skip
        axes.set_title(shown.title, loc="left", fontweight="bold", fontsize=9)
        axes.set_xlabel("step")
        axes.set_ylabel(shown.unit)
        if shown.unit == "share":
            axes.set_ylim(*share_limits(shown))
        if len(shown.curves) > 1:
            axes.legend(frameon=False, fontsize=8, loc="upper center", ncols=2,
                        bbox_to_anchor=(0.5, -0.22))  # fmt: skip

    return draw


def share_limits(shown: Panel) -> tuple[float, float]:
    """0 to 1, or more where a share of the advantage is outside."""
    values = [value for points in shown.curves.values() for _, value in points]
    return min(-0.03, *values), max(1.03, *values)


def accuracy(scores: dict[str, dict], tasks: list[str]) -> Draw:
    """A dot for each model with its interval; tasks beside each other."""
    models = list(scores)

    def draw(axes: "Axes") -> None:
        for i, (task, colour) in enumerate(zip(tasks, cycle(COLOURS), strict=False)):
            shift = (i - (len(tasks) - 1) / 2) * 0.5 / len(tasks)
            found = [(models.index(m) + shift, s) for _, m, s in entries(scores, [task])]
            middle = [s["accuracy"] for _, s in found]
            errors = [[s["accuracy"] - s["low"] for _, s in found],
                      [s["high"] - s["accuracy"] for _, s in found]]  # fmt: skip
            axes.errorbar([x for x, _ in found], middle, errors, fmt="o", capsize=3,
                          color=colour, label=task)  # fmt: skip
        axes.set_xticks(range(len(models)), models)
        axes.set_xlim(-0.5, len(models) - 0.5)
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel("accuracy, 95 % interval")
        if len(tasks) > 1:
            axes.legend(frameon=False, fontsize=8, loc="upper center", ncols=3,
                        bbox_to_anchor=(0.5, -0.12))  # fmt: skip

    return draw
