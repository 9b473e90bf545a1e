r"""How fast and how right are graders? `python -m benchmarks.rewards --data DIR`

DIR holds `gsm8k/test.jsonl` and `math500/test.jsonl`. Every pair's truth is known by construction:
a gold against itself, restyled, or with its last digit changed where that surely changes the value.
Caches start cold; extraction from a completion is included; one run, one after the other.
"""

import argparse
import json
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

Pair = tuple[str, str, bool]  # gold, answer, are they equal


def golds(data: Path) -> dict[str, list[str]]:
    gsm8k = [json.loads(line)["answer"] for line in (data / "gsm8k/test.jsonl").open()]
    math = [json.loads(line)["answer"] for line in (data / "math500/test.jsonl").open()]
    return {"GSM8K": [answer.rpartition("####")[2].strip() for answer in gsm8k], "MATH": math}


def sets(found: list[str]) -> dict[str, list[Pair]]:
    """The three sets of pairs of one data set."""
    return {
        "itself": [(gold, gold, True) for gold in found],
        "restyled": [(gold, restyled(gold), True) for gold in found],
        "near miss": [(gold, wrong, False) for gold in found if (wrong := missed(gold))],
    }


def restyled(gold: str) -> str:
    """The same value in another style: commas, other fraction and bracket commands."""
    if re.fullmatch(r"-?[\d,]+", gold) and not re.search(r",\d{1,2}(,|$)", gold):
        value = int(gold.replace(",", ""))
        return f"{value}.00" if "," in gold or abs(value) < 1000 else f"{value:,}"
    return gold.replace(r"\frac", r"\dfrac").replace("(", r"\left(").replace(")", r"\right)")


def missed(gold: str) -> str | None:
    """The last digit changed; None where there is none."""
    digits = list(re.finditer(r"\d", gold))
    if not digits:
        return None
    at = digits[-1].start()
    return gold[:at] + str(int(gold[at]) % 9 + 1) + gold[at + 1 :]


def ours() -> Callable[[str, str], bool]:
    from stages.answers.format import Format
    from stages.core.grade import grade

    fmt = Format(answer_open="", answer_close="")
    return lambda gold, text: grade(text, {"gold": gold}, fmt).correct


def trl() -> Callable[[str, str], bool]:
    from trl.rewards import accuracy_reward

    def graded(gold: str, text: str) -> bool:
        # In `$`: a bare gold of LaTeX is not parsed and its sample is skipped.
        return accuracy_reward([[{"role": "assistant", "content": text}]], [f"${gold}$"])[0] == 1.0

    return graded


def math_verify() -> Callable[[str, str], bool]:
    from math_verify import parse, verify

    return lambda gold, text: verify(parse(f"${gold}$"), parse(text))


def hendrycks() -> Callable[[str, str], bool]:
    from lm_eval.tasks.hendrycks_math.utils import is_equiv, last_boxed_only_string, remove_boxed

    return lambda gold, text: is_equiv(remove_boxed(last_boxed_only_string(text)), gold)


GRADERS = {"ours": ours, "trl accuracy_reward": trl, "math_verify": math_verify,
           "lm-eval hendrycks is_equiv": hendrycks}  # fmt: skip


def measured(grader: Callable[[str, str], bool], pairs: list[Pair]) -> tuple[float, int, int]:
    """Pairs a second, wrong accepts, wrong rejects; an exception is a reject."""
    accepts = rejects = 0
    started = time.perf_counter()
    for gold, answer, truth in pairs:
        try:
            found = bool(grader(gold, f"<think>Let me see.</think>So it is $\\boxed{{{answer}}}$."))
        except Exception:
            found = False
        accepts += found and not truth
        rejects += truth and not found
    return len(pairs) / (time.perf_counter() - started), accepts, rejects


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    found = golds(parser.parse_args().data)
    logging.disable(logging.ERROR)
    graders = {name: make() for name, make in GRADERS.items()}
    for grader in graders.values():
        grader(r"\sqrt{2}+1", r"\boxed{1+\sqrt{2}}")  # imports and parsers' tables, for each alike
    print(
        f"{'pairs':<18}{'n':>6}  {'grader':<28}{'pairs/s':>10}{'wrong +':>9}{'wrong -':>9}  ratio"
    )
    for data, answers in found.items():
        for kind, pairs in sets(answers).items():
            rates = {}
            for name, grader in graders.items():
                rates[name], accepts, rejects = measured(grader, pairs)
                print(
                    f"{data + ' ' + kind:<18}{len(pairs):>6}  {name:<28}{rates[name]:>10,.0f}"
                    f"{accepts:>9}{rejects:>9}  ours is {rates['ours'] / rates[name]:,.1f}x",
                    flush=True,
                )


if __name__ == "__main__":
    main()
