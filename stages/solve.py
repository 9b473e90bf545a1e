"""solve: one's own problems, answered by any model of the pipeline. A command, no stage.

usage: python -m stages.solve "A bakery made 96 cupcakes and sold 37 ..."
       python -m stages.solve --model sft --temperature 0.3 --samples 8 --majority "..."
       python -m stages.solve --file problems.jsonl --json > answers.jsonl

Prompt, model and grading are those of training and evaluation. It writes no file and no MLflow run.

`--json` writes an object a problem: `question`, `completion`, `answer`, `cut_off` (--max-tokens ran
out), and, where the right answer is known, `gold` and `correct` (null where the sandbox that runs
code failed). With --samples N all but question and gold are lists of N, the first two `completions`
and `answers`. --majority adds `votes` and the `answer` that won; `correct` is then its.
"""

import argparse
import json
import logging
import math
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import tasks
from stages.answers.equality import equal
from stages.core import models
from stages.core import params as parameters
from stages.core.errors import UserError
from stages.core.grade import comparison, grades, judged_by, require_types
from stages.core.params import Params
from stages.core.progress import Progress
from stages.core.stage import set_environment
from stages.core.statistics import alike, commonest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.generation.streamers import BaseStreamer

NAMES = ("base", "sft", "grpo", "student")
JSONL = re.compile(r'\s*\{\s*["}]')  # a text that opens like this is no word problem
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Asked:
    """A problem to be solved, its right answer where that is known, and where it stood.

    `columns` are what else its row is judged by, see `grade.judged_by`.
    """

    question: str
    gold: str | None
    where: str
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Can an answer be judged? Code is by its tests alone."""
        return self.gold is not None or bool(self.columns.get("tests"))


def main() -> None:
    options = parser().parse_args()
    set_environment()
    quiet_libraries()
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal need not know UTF-8
    try:
        solve(options)
    except UserError as error:
        sys.exit(f"solve: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        sys.stderr.close()  # `| head` has read enough


def quiet_libraries() -> None:
    """Keeps the libraries' warnings, which a stage writes to its log, off the terminal."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.captureWarnings(True)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logging.getLogger("stages").setLevel(logging.WARNING)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m stages.solve", description="A model's answer to problems of your own."
    )
    given = made.add_mutually_exclusive_group(required=True)
    given.add_argument("question", nargs="?", help="the problem; - reads it, whole, from stdin")
    given.add_argument(
        "--file",
        metavar="PROBLEMS",
        help="many: a text with a problem a line, or "
        'JSONL with "question" or "problem" and perhaps "answer" and what else it is judged by '
        "(options, aliases, numbers, tests, percent); - is stdin",
    )
    made.add_argument(
        "--model", default="grpo", metavar="|".join([*NAMES, "PATH"]), help="default: grpo"
    )
    made.add_argument("--temperature", type=float, default=0.0, help="default: 0, greedy")
    made.add_argument("--samples", type=int, default=1, metavar="N", help="completions a problem")
    made.add_argument("--majority", action="store_true", help="the samples vote on the answer")
    made.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="of a completion; default: evaluate.max_completion_length",
    )
    made.add_argument("--seed", type=int, help="of sampling; default: params.yaml's")
    made.add_argument("--json", action="store_true", help="a JSON object a problem, nothing else")
    return made


def solve(options: argparse.Namespace) -> None:
    params = parameters.load()
    if options.max_tokens is None:
        options.max_tokens = params.evaluate.max_completion_length
    if options.seed is None:
        options.seed = params.seed
    check(options)
    asked = problems(options)
    where = folder(options.model)
    tokenizer = models.load_tokenizer(where)
    prompts = [prompt(one, tokenizer, params) for one in asked]
    model = models.load_model(where, params.base.attn_implementation, dtype="auto").eval()
    require_room(asked, prompts, model, tokenizer, options.max_tokens)
    streams = len(asked) == options.samples == 1 and not options.json
    completions = complete(
        model,
        tokenizer,
        [text for text in prompts for _ in range(options.samples)],
        options,
        params.evaluate.at_once,
        to_terminal(tokenizer) if streams else None,
    )
    progress = Progress("solve", params.run.log_every_seconds)
    verdicts: list[bool] = []
    for done, one in enumerate(asked, 1):
        solved = result(one, list(islice(completions, options.samples)), options.majority, params)
        verdicts += [v for v in as_list(solved.get("correct", [])) if v is not None]
        shown = json.dumps(solved) if options.json else told(solved, len(asked) > 1, streams)
        print(shown, flush=True)
        if len(asked) > 1 and not sys.stdout.isatty():  # a terminal shows the answers themselves
            progress.update(done, len(asked))
    if len(verdicts) > 1 and not options.json:
        print(f"{sum(verdicts)} of {len(verdicts)} correct")


def check(options: argparse.Namespace) -> None:
    """Raises UserError for a number out of range, or options that make no sense together."""
    if options.samples < 1 or options.max_tokens < 1:
        raise UserError("--samples and --max-tokens are 1 or more")
    if not 0 <= options.seed < 2**32:
        raise UserError("--seed is from 0 to 4294967295")
    # a smaller one overflows float32 when the logits are divided by it
    if options.temperature != 0 and not 0.001 <= options.temperature < math.inf:
        raise UserError("--temperature is 0 (greedy), or 0.001 or more")
    if options.samples > 1 and options.temperature == 0:
        raise UserError("greedy samples are all the same: give --temperature with --samples")
    if options.majority and options.samples == 1:
        raise UserError("--majority is a vote among samples: give --samples 2 or more")


def problems(options: argparse.Namespace) -> list[Asked]:
    """What is asked, all of it read before a model is loaded, so that mistakes show at once."""
    if options.file is not None:
        return many(options.file)
    if options.question == "-":
        return [ask(read("-"), None, "stdin")]
    return [ask(options.question, None, "the question")]


def many(source: str) -> list[Asked]:
    """The problems of a text or a JSONL file.

    Raises:
        UserError: no such file, no problem in it, or a line that is none; says which.
    """
    name = "stdin" if source == "-" else source
    lines = [(f"{name}, line {i}", line) for i, line in enumerate(read(source).split("\n"), 1)
             if line.strip()]  # fmt: skip
    if not lines:
        raise UserError(f"{name} has no problems: give one a line")
    if source.endswith((".jsonl", ".json")) or JSONL.match(lines[0][1]):
        return [from_json(line, where) for where, line in lines]
    return [ask(line, None, where) for where, line in lines]


def read(source: str) -> str:
    name = "stdin" if source == "-" else source
    try:
        raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{name} is no UTF-8 text: save it as UTF-8") from None
    except OSError as error:
        raise UserError(
            f"{name} cannot be read ({error.strerror}): name another file, or - for stdin"
        ) from None


def from_json(line: str, where: str) -> Asked:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg}): mend it, or take it out") from None
    question = row.get("question", row.get("problem")) if isinstance(row, dict) else None
    if not isinstance(question, str):
        raise UserError(f'{where}: a row is an object with a "question" or a "problem": add it')
    gold = row.get("gold", row.get("answer"))
    if isinstance(gold, bool) or not isinstance(gold, str | int | float | None):
        raise UserError(f'{where}: "answer" is a text or a number')
    require_types(row, where)
    gold = gold if gold is None else right_answer(str(gold))
    return replace(ask(question, gold, where), columns=judged_by(row))


def right_answer(text: str) -> str:
    """The gold; in GSM8K's own rows it stands after `####`."""
    _, mark, gold = text.rpartition("####")
    return gold.strip().replace(",", "") if mark else text.strip()


def ask(question: str, gold: str | None, where: str) -> Asked:
    question = question.strip()
    if not question:
        raise UserError(f"{where} is empty: give a problem")
    try:
        question.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where} is no UTF-8 text") from None
    return Asked(question, gold, where)


def folder(model: str) -> Path:
    if model in NAMES:
        return Path("models", model)
    if not Path(model).expanduser().is_dir():
        names = f"{', '.join(NAMES[:-1])} or {NAMES[-1]}"
        raise UserError(f"--model {model}: neither {names}, nor the folder of a model: name one")
    return Path(model)


def prompt(one: Asked, tokenizer: "PreTrainedTokenizerBase", params: Params) -> str:
    """The text that training and evaluation put before the model for this question."""
    messages = tasks.prompt(one.question, params.format)
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def require_room(
    asked: list[Asked],
    prompts: list[str],
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    max_tokens: int,
) -> None:
    """Raises UserError where prompt and completion may be longer than the model has positions."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is None:
        return
    encoded = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    for one, ids in zip(asked, encoded, strict=True):
        if len(ids) + max_tokens > positions:
            raise UserError(
                f"{one.where} is too long: {len(ids)} tokens with its prompt and up to "
                f"{max_tokens} new ones, but the model has {positions} positions; shorten it, or "
                "lower --max-tokens"
            )


def complete(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: list[str],
    options: argparse.Namespace,
    batch_size: int,
    streamer: "BaseStreamer | None" = None,
) -> Iterator[tuple[str, bool]]:
    """A completion of each prompt, in order, and whether it was cut off before an end token."""
    import torch

    own = model.generation_config.eos_token_id
    ends = sorted({tokenizer.eos_token_id, *as_list(own)} - {None})
    sampling: dict[str, Any] = {"do_sample": False}
    if options.temperature:
        sampling = {"do_sample": True, "temperature": options.temperature, "top_k": 0}
    torch.manual_seed(options.seed)
    for start in range(0, len(prompts), batch_size):
        encoded = tokenizer(
            prompts[start : start + batch_size],
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,  # the chat template wrote them
        ).to(model.device)
        output = model.generate(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            max_new_tokens=options.max_tokens,
            eos_token_id=ends or None,
            pad_token_id=tokenizer.pad_token_id,
            streamer=streamer,
            **sampling,
        )
        ids = output[:, encoded["input_ids"].shape[1] :].tolist()
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        yield from zip(texts, (set(ends).isdisjoint(one) for one in ids), strict=True)


def as_list(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def to_terminal(tokenizer: "PreTrainedTokenizerBase") -> "BaseStreamer":
    """A streamer for one sequence that writes each token's text to stdout as it comes.

    transformers' own TextStreamer waits for a space or the end of a line, and short workings have
    neither.
    """
    from transformers.generation.streamers import BaseStreamer

    class Terminal(BaseStreamer):
        def __init__(self) -> None:
            self.ids: list[int] | None = None  # None until the prompt has passed
            self.before = self.shown = 0  # ids[before:shown] give the next token its context

        def put(self, value) -> None:
            if self.ids is None:
                self.ids = []
                return
            self.ids += value.tolist()
            text = self.new()
            if text and not text.endswith("\ufffd"):  # the first bytes of a character
                self.before, self.shown = self.shown, len(self.ids)
                print(visible(text), end="", flush=True)

        def end(self) -> None:
            print(visible(self.new()), flush=True)

        def new(self) -> str:
            """What the ids not yet shown add; a token alone would lose its leading space."""
            known = self.text(self.ids[self.before : self.shown])
            return self.text(self.ids[self.before :])[len(known) :]

        def text(self, ids: list[int]) -> str:
            # the clean-up would change what is already shown
            return tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )

    return Terminal()


def result(
    one: Asked, samples: list[tuple[str, bool]], majority: bool, params: Params
) -> dict[str, Any]:
    """A problem's outcome, as `--json` writes it."""
    completions, cut_off = map(list, zip(*samples, strict=True))
    row = {"gold": one.gold or "", "percent": params.task.percent, **one.columns}
    found = grades(completions, [row] * len(completions), params.format.tags)
    answers = [grade.answer or None for grade in found]
    correct = [grade.correct for grade in found]
    known = {} if one.gold is None else {"gold": one.gold}
    made: dict[str, Any] = {"question": one.question}
    if len(samples) == 1:
        made |= {"completion": completions[0], "answer": answers[0], "cut_off": cut_off[0], **known}
    else:
        made |= {"completions": completions, "answers": answers, "cut_off": cut_off, **known}
    if majority:
        ranked = votes(answers, comparison(row))
        made["answer"] = ranked[0][0]
        made["votes"] = [{"answer": answer, "votes": count} for answer, count in ranked]
    if one.known and "answer" in made:
        made["correct"] = correct[answers.index(made["answer"])]
    elif one.known:
        made["correct"] = correct
    return made


def votes(
    answers: Sequence[str | None], same: Callable[[str, str], bool] = equal
) -> list[tuple[str | None, int]]:
    """The answers and how many gave each: most first, first come first where that is the same.

    Equal answers are one, in their commonest spelling. Having no answer stands last, however
    common.

    >>> votes(["5", None, "6", "$5.00", None, None])
    [('5', 2), ('6', 1), (None, 3)]
    """
    groups = alike(answers, same)
    ranked = sorted(groups, key=Counter.total, reverse=True)
    without = len(answers) - sum(map(Counter.total, groups))
    return [
        *((commonest(group), group.total()) for group in ranked),
        *([(None, without)] if without else []),
    ]


def told(solved: dict[str, Any], with_question: bool, streamed: bool) -> str:
    """A problem's outcome for people; of a vote only its result, not every completion."""
    lines = [f"Problem: {solved['question']}"] if with_question else []
    if "votes" in solved:
        counted = (f"{v['votes']} for {one_line(v['answer'])}" for v in solved["votes"])
        lines += [verdict(solved, solved["answer"], solved.get("correct"), all(solved["cut_off"]))]
        lines += [f"votes: {', '.join(counted)}"]
    elif "answers" in solved:
        correct = solved.get("correct", [None] * len(solved["answers"]))
        columns = (solved["completions"], solved["answers"], correct, solved["cut_off"])
        for i, (text, *of_it) in enumerate(zip(*columns, strict=True), 1):
            lines += [f"[{i}] {text}", verdict(solved, *of_it)]
    else:
        lines += [] if streamed else [solved["completion"]]
        lines += [verdict(solved, solved["answer"], solved.get("correct"), solved["cut_off"])]
    return visible("\n".join(lines + [""] * with_question))


def verdict(solved: dict[str, Any], answer: str | None, correct: bool | None, cut: bool) -> str:
    said = []
    if answer is None and cut:
        said.append("cut off; a higher --max-tokens lets it go on")
    if correct is not None:
        right = f", right is {one_line(solved['gold'])}" if solved.get("gold") else ""
        said.append("correct" if correct else f"wrong{right}")
    return f"answer: {one_line(answer)}" + (f" ({'; '.join(said)})" if said else "")


def one_line(answer: str | None) -> str:
    return "none" if answer is None else " ".join(answer.split())


def visible(text: str) -> str:
    r"""The text with control characters written out: a model's output must not steer a terminal.

    >>> visible("a\x1b[2Jb\n")
    'a\\u001b[2Jb\n'
    """
    return CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


if __name__ == "__main__":
    main()
