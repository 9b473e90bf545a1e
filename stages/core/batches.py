"""Generated batches, kept as they come: a sampling that is killed goes on after the last one.

Each batch is seeded by its place, so that what it holds hangs on no batch before it.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from stages.core.files import write_text
from stages.core.graph import digest
from stages.core.stage import log

Ids = list[list[int]]  # (batch, length)


class Batches:
    """The batches of one sampling, in a file of one line each.

    Args:
        path: the file, which is of exactly the present inputs (`resume.folder`); None keeps
            nothing.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        lines = list(intact(path)) if path and path.exists() else []
        self.known = dict(pair for pair, _ in lines)
        if lines:
            log.info("going on after %d batches of completions", len(lines))
        if path and path.exists():
            write_text(path, "".join(line for _, line in lines))  # without a torn end

    def get(self, place: int, prompts: Ids, generate: Callable[[], Ids]) -> Ids:
        """The batch that was kept for these prompts at this place, else a new one, kept now.

        Args:
            place: prompts generated before it, in this sampling.
            prompts: token ids; a batch of other prompts is none of this one's.
            generate: called after torch's generators are seeded for this place.
        """
        key = f"{place} {digest(prompts)}"
        if key not in self.known:
            self.known[key] = generate()
            if self.path:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a") as file:
                    file.write(line(key, self.known[key]))
        return self.known[key]


def line(key: str, ids: Ids) -> str:
    return json.dumps({"key": key, "ids": ids, "md5": digest([key, ids])}) + "\n"


def intact(path: Path) -> Iterator[tuple[tuple[str, Ids], str]]:
    """(key, batch) with its line, up to the first line that is not whole."""
    for text in path.read_bytes().splitlines(keepends=True):
        try:
            key, ids = json.loads(text)["key"], json.loads(text)["ids"]
        except (ValueError, KeyError, TypeError):
            return
        if line(key, ids).encode() != text:
            return
        yield (key, ids), text.decode()


def seed_at(seed: int, place: int) -> int:
    """A seed of its own for the batch at a place, another one under every seed."""
    return int(digest([seed, place])[:12], 16)
