"""What the last run of a stage left behind: its seconds, and in dvc.lock its parameters."""

import hashlib
import json
from pathlib import Path
from typing import Any

from stages.core.graph import loaded
from stages.core.stage import metrics_path

LOCK = Path("dvc.lock")


def recorded(lock: Path = LOCK) -> dict[str, dict]:
    """Stage -> its entry in dvc.lock; none where there is no such file."""
    return (loaded(lock) or {}).get("stages", {}) if lock.exists() else {}


def metrics(stage: str) -> dict[str, Any]:
    """What it measured; empty where the file is missing or half a file."""
    try:
        found = json.loads(metrics_path(stage).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def seconds(stage: str) -> float | None:
    """How long it took, where its metrics say."""
    found = metrics(stage).get("seconds")
    return found if isinstance(found, int | float) else None


def params(stage: str, entry: dict) -> dict[str, Any] | None:
    """The parameters of the run that the metrics file is of; None where that is another run's.

    Args:
        stage: as DVC names it.
        entry: the stage's, of dvc.lock.
    """
    path = metrics_path(stage)
    known = {out["path"]: out.get("md5") for out in entry.get("outs", [])}
    if not path.exists() or known.get(path.as_posix()) != md5(path):
        return None
    return entry.get("params", {}).get("params.yaml", {})


def md5(path: Path) -> str:
    """DVC's hash of a file; it guards nothing."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def duration(seconds: float | None) -> str:
    """
    >>> duration(8.42), duration(79), duration(3725), duration(None)
    ('8.4 s', '1:19 min', '1:02 h', 'not known')
    """
    if seconds is None:
        return "not known"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    hours = seconds >= 3599.5
    big, small = divmod(round(seconds / 60 if hours else seconds), 60)
    return f"{big}:{small:02} {'h' if hours else 'min'}"
