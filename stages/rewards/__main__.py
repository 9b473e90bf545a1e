"""`python -m stages.rewards audit | score`: may the rewards be trusted, and what do they say?

usage: python -m stages.rewards audit
       python -m stages.rewards score [--rewards A,B] [--params FILE] [ROWS.jsonl | -]

`score` reads rows `{"completion": ..., "answer": ..., ...}`, one a line, from a file or from stdin,
and writes each with `"rewards": {"A": number or null}` and `"total"` to stdout, in the same order.
"""

import argparse
import json
import runpy
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from stages import rewards
from stages.core import params as parameters
from stages.core.errors import UserError
from stages.core.files import decoded, parsed
from stages.core.grade import require_types
from stages.core.params import Params, Reward
from stages.rewards.combine import one
from stages.rewards.text import stand_in_ids, text

BATCH = 256  # rows judged at once; a pipe sees its answers before its end


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m stages.rewards", description="May the rewards be trusted? What do they say?"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("audit", help="judge every gold and probes that must not earn")
    scoring = commands.add_parser("score", help="the rewards of rows, as JSON lines")
    scoring.add_argument("--rewards", help="names, with commas between; default: params.yaml's")
    scoring.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    scoring.add_argument("rows", nargs="?", default="-", help="a JSONL file; - is stdin")
    options = parser.parse_args()
    if options.command == "audit":
        del sys.argv[1:]  # a stage takes none
        runpy.run_module("stages.audit", run_name="__main__")
    else:
        try:
            score(options.rows, options.params, options.rewards)
        except UserError as error:
            sys.exit(f"score: {error}")
        except BrokenPipeError:
            sys.stderr.close()  # `| head` has read enough


def score(source: str, params_file: Path, names: str | None) -> None:
    params = parameters.load(params_file)
    specs = chosen(params, names)
    functions, weights = rewards.load(specs, params.format.tags)
    for batch in batches(read(source)):
        columns = as_columns(batch)
        scores = [function(**columns) for function in functions]
        for row, sample in zip(batch, zip(*scores, strict=True), strict=True):
            judged = {
                **row,
                "rewards": dict(zip(specs, sample, strict=True)),
                "total": one("sum", list(sample), weights),
            }
            print(json.dumps(judged, ensure_ascii=False))
        sys.stdout.flush()


def chosen(params: Params, names: str | None) -> dict[str, Reward]:
    """The rewards of params.yaml, or those named: from there, else ours with weight 1."""
    if names is None:
        return params.grpo.rewards
    wanted = [name.strip() for name in names.split(",")]
    return {name: params.grpo.rewards.get(name) or Reward() for name in wanted}


def read(source: str) -> Iterator[dict]:
    """Rows of a JSONL file or of stdin.

    Raises:
        UserError: no such file, or a line that is no row; says which.
    """
    if source != "-" and not Path(source).is_file():
        raise UserError(f"{source} is no file; give a JSONL file, or - for stdin")
    with nullcontext(sys.stdin.buffer) if source == "-" else Path(source).open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{'stdin' if source == '-' else source}, line {number}"
            row = parsed(decoded(line, where), where)
            require_row(row, where)
            yield row


def require_row(row: Any, where: str) -> None:
    """Raises UserError for what cannot be judged; names the field."""
    if not isinstance(row, dict) or not is_completion(row.get("completion")):
        raise UserError(
            f'{where}: a row is an object with a "completion" (a text, or chat messages): add it'
        )
    if "answer" not in row and "gold" not in row:
        raise UserError(f'{where}: the row has no "answer", the gold to judge it by: add it')
    if isinstance(gold(row), bool) or not isinstance(gold(row), str | int | float):
        name = "gold" if "gold" in row else "answer"
        raise UserError(f'{where}: "{name}" is a text or a number: mend the row, or take it out')
    if not isinstance(row.get("working"), str | None):
        raise UserError(f'{where}: "working" is a text: mend it, or take it out')
    if not isinstance(row.get("completion_ids"), list | None):
        raise UserError(f'{where}: "completion_ids" is a list of tokens: mend it, or take it out')
    require_types(row, where)


def is_completion(value: Any) -> bool:
    if isinstance(value, list):
        last = value[-1] if value else None
        return isinstance(last, dict) and isinstance(last.get("content"), str)
    return isinstance(value, str)


def gold(row: dict) -> Any:
    return row.get("gold", row.get("answer"))


def batches(rows: Iterator[dict]) -> Iterator[list[dict]]:
    batch: list[dict] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def as_columns(batch: list[dict]) -> dict[str, list]:
    """The batch as a trainer would hand it over: a list a column."""
    names = {name for row in batch for name in row} - {"completion", "answer", "rewards", "total"}
    columns = {name: [row.get(name) for row in batch] for name in names}
    columns["completions"] = [row["completion"] for row in batch]
    columns["gold"] = [str(gold(row)) for row in batch]
    columns.setdefault("working", [None] * len(batch))
    columns["completion_ids"] = [
        stand_in_ids(text(row["completion"])) if (ids := row.get("completion_ids")) is None else ids
        for row in batch
    ]
    return columns


if __name__ == "__main__":
    main()
