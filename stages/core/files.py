"""Where things lie, and writing them so that nothing is ever half-written."""

import csv
import errno
import glob
import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Any, BinaryIO

import psutil

from stages.core.errors import UserError

ONLY_JSONL = "CSV, Parquet and compressed files must be made JSONL first (a JSON object a line)"


def root() -> Path:
    """The checkout. In `dvc exp run --temp` the working folder is a copy, DVC_ROOT the original."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def cache_dir(name: str) -> Path:
    """A folder for what may be deleted at any time, made on demand."""
    path = root() / ".cache" / name
    with writable(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


# what a user can mend: no room, no right, a file where a folder should be
MENDED = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST,
          errno.ENOTDIR)  # fmt: skip


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Raises UserError where the machine does not let something be written at `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in MENDED:
            raise
        shown = os.path.relpath(path)
        raise UserError(
            f"{shown} cannot be written ({os.strerror(error.errno)}): make room, give the right to "
            "write there, or move what is in its way"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A fresh path beside `path` to write to, moved into its place if the block succeeds."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.new"):
            if not in_use(left):
                remove(left)
        try:
            yield beside
            remove(path) if path.is_dir() else None
            beside.replace(path)
        finally:
            remove(beside)


def in_use(beside: Path) -> bool:
    """Whether another process is writing this; one that was killed has left it half-written."""
    pid = beside.name.split(".")[-2]
    return pid.isdigit() and int(pid) != os.getpid() and psutil.pid_exists(int(pid))


@contextmanager
def full_disk_said() -> Iterator[None]:
    """A full disk is the user's to mend, whoever in the block meets it.

    Raises:
        UserError: in place of what the writer raised; says where, and what to do.
    """
    try:
        yield
    except Exception as error:
        if not any(map(is_full_disk, chain(error))):
            raise
        folder, free = fullest()
        raise UserError(
            f"no space left on the disk of {folder} ({free // 10**6} MB free): free some and run "
            "the same command again; what was written half is gone, whole checkpoints are kept"
        ) from error


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, what caused it, and so on."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def is_full_disk(error: BaseException) -> bool:
    """By errno; by what Rust (safetensors, tokenizers) and torch say, which keep no errno."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return any(said in str(error) for said in ("os error 28", "unexpected pos "))


def fullest() -> tuple[Path, int]:
    """Of the disks that a stage writes to, the one with the least space: a folder, free bytes."""
    inside = [path for top in (root(), root() / ".cache") if top.is_dir() for path in top.iterdir()]
    folders = filter(Path.is_dir, [root(), Path.cwd(), *sorted(inside), Path(gettempdir())])
    disks = {}
    for folder in folders:
        disks.setdefault(folder.stat().st_dev, folder)
    free = {folder: shutil.disk_usage(folder).free for folder in disks.values()}
    return min(free.items(), key=lambda item: item[1])


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    """One JSON object a line; no rows are one empty line, for DVC warns of an empty file."""
    with replacing(path) as beside, beside.open("w") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if not file.tell():
            file.write("\n")


def write_csv(path: Path, rows: list[dict]) -> None:
    """A table whose columns are all keys of the rows, in the order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(path) as beside, beside.open("w", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)


def read_rows(path: Path) -> Iterator[dict]:
    """The rows of a JSONL file, streamed line by line, or of a `.json` file that holds a list.

    Raises:
        UserError: no such file, or a line that is no JSON object; the message names the line.
    """
    with opened(path) as file:
        if path.suffix == ".json":
            yield from listed(decoded(file.read(), str(path)), path)
        else:
            yield from (row for _, row in placed_rows(file, path))


def count_rows(path: Path) -> int:
    """The rows of a JSONL file, counted without parsing them: that would take 16 times as long."""
    with opened(path) as file:
        return sum(not line.isspace() for line in file)


def opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: name another, or run the stage that makes it"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name another file") from None


def placed_rows(file: BinaryIO, path: Path) -> Iterator[tuple[int, dict]]:
    """The rows of a JSONL file, each with the byte at which its line begins."""
    end = 0
    for number, line in enumerate(file, 1):
        start, end, place = end, end + len(line), f"{path}, line {number}"
        if text := decoded(line, place).strip():
            yield start, an_object(parsed(text, place), place)


def in_parts(rows: Iterable, size: int) -> Iterator[list]:
    """Rows in lists of that many, of which the last may be shorter."""
    rows = iter(rows)
    while part := list(islice(rows, size)):
        yield part


class Rows(Sequence):
    """Rows that stay in their JSONL file until one is asked for: memory holds 8 bytes of each.

    Args:
        file: open for reading; the object closes it with itself.
        places: where each row's line begins, in bytes.
    """

    def __init__(self, file: BinaryIO, places: array):
        self.file, self.places = file, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, which: int | slice) -> "dict | Rows":
        if isinstance(which, slice):
            return Rows(self.file, self.places[which])
        self.file.seek(self.places[which])
        return json.loads(self.file.readline())

    def take(self, order: Iterable[int]) -> "Rows":
        """The rows of these numbers (from 0), in this order."""
        return Rows(self.file, array("q", map(self.places.__getitem__, order)))

    def extend(self, rows: Iterable[dict]) -> None:
        """Adds rows to the file's end."""
        end = self.file.seek(0, os.SEEK_END)
        for row in rows:
            self.places.append(end)
            end += self.file.write(json.dumps(row).encode() + b"\n")


def indexed_rows(path: Path) -> Rows:
    """A JSONL file's rows as a sequence; raises as `read_rows` does, which finds all at fault."""
    file = opened(path)
    return Rows(file, array("q", (place for place, _ in placed_rows(file, path))))


def kept_rows(rows: Iterable[dict] = ()) -> Rows:
    """Rows put down in a nameless file, which is gone with the process however it ends."""
    file = TemporaryFile(dir=cache_dir("rows"))  # noqa: SIM115 - as long as its rows are needed
    kept = Rows(file, array("q"))
    kept.extend(rows)
    return kept


def decoded(raw: bytes, place: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{place}: no UTF-8 text: save it as UTF-8; {ONLY_JSONL}") from None


def listed(text: str, path: Path) -> Iterator[dict]:
    rows = parsed(text, str(path))
    if not isinstance(rows, list):
        raise UserError(
            f"{path}: a JSON list of objects was expected: put it in brackets, or name it .jsonl "
            "with an object a line"
        )
    for number, row in enumerate(rows, 1):
        yield an_object(row, f"{path}, item {number}")


def parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        known = "" if text.lstrip()[:1] in ("{", "[") else f"; {ONLY_JSONL}"
        raise UserError(
            f"{place}: not JSON ({error.msg}): mend it, or take it out{known}"
        ) from None
    except KeyError as error:
        raise UserError(f"{place}: {error} stands there twice: take one out") from None
    except RecursionError:
        raise UserError(f"{place}: nested too deeply: mend it, or take it out") from None


def once(pairs: list[tuple[str, Any]]) -> dict:
    """An object of JSON; Python would keep the last of two values without a word."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise KeyError(next(name for name in names if names.count(name) > 1))
    return made


def an_object(row: Any, place: str) -> dict:
    if not isinstance(row, dict):
        raise UserError(f"{place}: a JSON object was expected: mend it, or take it out")
    return row


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
