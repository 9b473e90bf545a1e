import re

from stages.reporting import charts
from stages.reporting.training import Panel

CURVES = {"mean_reward": [(1, 0.1), (2, 0.4)], "a $b$ <i> _c": [(1, 0.2), (2, 1.4)]}
PANEL = Panel("Reward", "share", CURVES)


def test_a_picture_is_the_same_bits_every_time(here):
    assert charts.svg("x", charts.panel(PANEL)) == charts.svg("x", charts.panel(PANEL))
    for name in ("one.png", "two.png"):
        charts.png(here / name, [charts.panel(PANEL)] * 3)
    assert (here / "one.png").read_bytes() == (here / "two.png").read_bytes()
    assert not list(here.glob(".*"))


def test_names_are_text_and_neither_formulas_nor_markup():
    picture = charts.svg("x", charts.panel(PANEL))
    assert "a $b$ &lt;i&gt; _c" in picture and "<i>" not in picture
    assert picture.startswith("<svg") and picture.rstrip().endswith("</svg>")
    assert "<metadata" not in picture and "<script" not in picture


def test_pictures_on_one_page_share_no_id():
    ids = [set(re.findall(r' id="([^"]+)"', charts.svg(name, charts.panel(PANEL))))
           for name in ("x", "y")]  # fmt: skip
    assert ids[0] and not ids[0] & ids[1]
    picture = charts.svg("x", charts.panel(PANEL))
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', picture))
    assert used and used <= ids[0]


def test_nothing_recorded_is_said(here):
    charts.png(here / "none.png", [])
    assert (here / "none.png").stat().st_size > 1000


def test_accuracy_of_several_tasks():
    score = {"accuracy": 0.5, "low": 0.4, "high": 0.6}
    picture = charts.svg("x", charts.accuracy({"sft": {"t": score, "u": score}}, ["t", "u"]))
    assert ">sft<" in picture and ">t<" in picture and ">u<" in picture
