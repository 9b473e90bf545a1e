"""Experiments that DVC restored whole from its cache: no stage ran that could have reported them.

`python -m stages.core.restored` gives each of them its parent run in MLflow, with its parameters,
its scores and the runs of the stages that made it. `make ui` and the Prefect flow call it.
"""

import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

from stages.core import params as parameters
from stages.core.errors import UserError
from stages.core.tracker import Store, send_missed
from stages.core.tracking import flat, numbers

log = logging.getLogger("stages")


class Experiment(NamedTuple):
    """A finished DVC experiment: its name, its commit and the commit that it started from."""

    name: str
    commit: str
    baseline: str


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        params = parameters.load()
    except UserError as error:
        sys.exit(str(error))
    send_missed()  # what waits to be sent is not to be taken for restored
    store = Store(params.tracking.uri)
    for experiment in experiments():
        if not reported(store, experiment.name):
            report(store, experiment)
            log.info("MLflow: added %s, which DVC had restored from its cache", experiment.name)


def experiments() -> Iterator[Experiment]:
    from dvc.repo import Repo

    with Repo() as repo:
        listed = repo.experiments.ls(all_commits=True)
    for baseline, found in listed.items():
        for name, commit in found:
            yield Experiment(name, commit, baseline)


def reported(store: Store, name: str) -> bool:
    query = f"tags.`dvc.experiment` = '{name}'"
    return bool(store.client.search_runs([store.experiment], query, max_results=1))


def report(store: Store, experiment: Experiment) -> None:
    import dvc.api
    import yaml

    time = committed(experiment.commit)
    tags = {"dvc.experiment": experiment.name, "git.commit": experiment.baseline,
            "made.for": experiment.commit}  # fmt: skip
    params = dvc.api.params_show("params.yaml", rev=experiment.commit)
    parent = store.new_run(experiment.name, {**tags, "restored": "true"}, flat(params), time)
    store.log_metrics(parent, scores(experiment.commit), step=0, time=time)
    lock = yaml.safe_load(dvc.api.read("dvc.lock", rev=experiment.commit))
    store.link(parent, lock["stages"])
    store.client.set_terminated(parent, "FINISHED", time)


def scores(commit: str) -> dict[str, float]:
    """`{"grpo.arithmetic.accuracy": 0.9}`, as the stages would have reported it."""
    import dvc.api

    models = dvc.api.metrics_show("reports/summary.json", rev=commit)["models"]
    return numbers({model: entry["tasks"] for model, entry in models.items()})


def committed(commit: str) -> int:
    """A commit's time in milliseconds."""
    show = ["git", "show", "-s", "--format=%ct", commit]
    return int(subprocess.run(show, capture_output=True, text=True, check=True).stdout) * 1000


if __name__ == "__main__":
    main()
