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
    """Progress of one loop; call `update` as often as convenient."""

    def __init__(self, name: str, every_seconds: float):
        self._name = name
        self._every = every_seconds
        self._started = self._last = time.monotonic()
        self._bar: tqdm | None = None

    def update(self, done: int, total: int, note: str = "") -> None:
        """Shows `done` of `total` with an ETA and a note such as `reward 0.62`."""
        if not launch.first():
            return
        if sys.stderr.isatty():
            self._show_bar(done, total, note)
        elif time.monotonic() - self._last >= self._every or done == total:
            self._last = time.monotonic()
            seconds = (self._last - self._started) / max(done, 1) * (total - done)
            eta = f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
            log.info("%s: %d/%d (%.0f %%), %s left  %s", self._name, done, total,
                     100 * done / total, eta, note)  # fmt: skip

    def restart(self) -> None:
        """A new loop begins: its ETA counts from now."""
        self._started = self._last = time.monotonic()

    def _show_bar(self, done: int, total: int, note: str) -> None:
        from tqdm import tqdm

        if self._bar is None or self._bar.total != total:
            self._bar = tqdm(total=total, desc=self._name, dynamic_ncols=True, disable=False)
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._bar.close()
            self._bar = None
