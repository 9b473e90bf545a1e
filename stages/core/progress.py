"""How far a long stage is: a bar on a terminal, a plain line every so often in a log."""

import logging
import sys
import time
from typing import TYPE_CHECKING

from stages.core import launch

if TYPE_CHECKING:
    from tqdm import tqdm

log = logging.getLogger("stages")


class Progress:
    """Progress of one loop; call `update` as often as convenient.

    The ETA goes by what was done since the first update: neither what a resumed loop had done
    before nor what came before the first step counts.
    """

    def __init__(self, name: str, every_seconds: float):
        self._name = name
        self._every = every_seconds
        self._bar: tqdm | None = None
        self.restart()

    def update(self, done: int, total: int, note: str = "") -> None:
        """Shows `done` of `total` with an ETA and a note such as `reward 0.62`."""
        if not launch.first():
            return
        if sys.stderr.isatty():
            self._show_bar(done, total, note)
            return
        now = time.monotonic()
        self._first = self._first or (done, now)
        if now - self._last >= self._every or done == total:
            self._last = now
            log.info("%s: %d/%d (%.0f %%)%s  %s", self._name, done, total, 100 * done / total,
                     self._eta(done, total, now), note)  # fmt: skip

    def restart(self) -> None:
        """A new loop begins."""
        self._last = time.monotonic()
        self._first: tuple[int, float] | None = None

    def _eta(self, done: int, total: int, now: float) -> str:
        before, began = self._first
        if done == before and done < total:
            return ""
        seconds = int((now - began) / max(done - before, 1) * (total - done))
        return f", {seconds // 60}:{seconds % 60:02d} left"

    def _show_bar(self, done: int, total: int, note: str) -> None:
        from tqdm import tqdm

        if self._bar is None or self._bar.total != total:
            self._bar = tqdm(total=total, initial=done, desc=self._name, dynamic_ncols=True,
                             disable=False)  # fmt: skip
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._bar.close()
            self._bar = None
