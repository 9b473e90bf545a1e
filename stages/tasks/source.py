"""Where a task's rows come from: a hub data set, a local folder, a JSONL file or a JSON list."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from stages.core.errors import UserError
from stages.core.files import read_rows
from stages.core.params import Source, is_local

TEST_SHARE = 5  # of a single file every fifth row is held out


def splits(task: Source, hub_config: str | None = None) -> tuple[Iterator[dict], Iterator[dict]]:
    """The train and the test rows of `task.source`, streamed; `_row` is each one's number, from 1.

    A single file has no splits, nor has a hub data set where `task.splits` names one twice: every
    fifth row of it is held out.

    Raises:
        UserError: the source is missing, unreachable, malformed or empty; of a file's rows only
            when they are read.
    """
    if task.source is None:
        raise UserError(
            f"task.source is null, but task {task.name} needs one: a hub id, a folder with "
            "train.jsonl and test.jsonl, or a JSONL or JSON file"
        )
    train, test = task.splits.train, task.splits.test
    if not is_local(task.source):
        rows = from_hub(task, hub_config, train)
        if train == test:
            return held_out(lambda: numbered(rows))
        return numbered(rows), numbered(from_hub(task, hub_config, test))
    path = Path(task.source).expanduser()
    if path.is_dir():
        require_splits(path, {train, test})
    if path.is_dir() and train != test:
        return tuple(from_file(path / f"{split}.jsonl") for split in (train, test))
    return held_out(lambda: from_file(path / f"{train}.jsonl" if path.is_dir() else path))


def require_splits(folder: Path, names: set[str]) -> None:
    for name in sorted(names):
        if not (folder / f"{name}.jsonl").exists():
            raise UserError(
                f"task.source: {folder} has no {name}.jsonl: put it there, say in task.splits what "
                "it is called, or name one file, of which every fifth row is then held out"
            )


def place(task: Source, split: str) -> str:
    """Where a split's rows lie, for messages."""
    if not is_local(task.source):
        return f"{task.source} {split}"
    path = Path(task.source)
    return str(path / f"{split}.jsonl" if path.expanduser().is_dir() else path)


def held_out(rows: Callable[[], Iterator[dict]]) -> tuple[Iterator[dict], Iterator[dict]]:
    """Both sides of rows that can be read twice."""
    return (
        (row for row in rows() if row["_row"] % TEST_SHARE),
        (row for row in rows() if row["_row"] % TEST_SHARE == 0),
    )


def from_file(path: Path) -> Iterator[dict]:
    row = None
    for row in numbered(read_rows(path)):
        yield row
    if row is None:
        raise UserError(f"{path} has no rows: name another file, or fill it")


def numbered(rows: Iterable[dict]) -> Iterator[dict]:
    return ({**row, "_row": number} for number, row in enumerate(rows, 1))


def from_hub(task: Source, config: str | None, split: str) -> Iterable[dict]:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return datasets.load_dataset(
            task.source, task.config or config, split=split, revision=task.revision
        )
    except (ConnectionError, HfHubHTTPError, datasets.exceptions.DatasetNotFoundError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"task.source: the data set {task.source} cannot be had from the hub ({reason}). "
            "Download it elsewhere and name its folder (train.jsonl, test.jsonl) in task.source "
            "and task.watch"
        ) from error
