"""The container's and the cluster's files: all that can be checked with neither at hand."""

import asyncio
import copy
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import kubernetes_validate
import psutil
import pytest
import yaml
from kubernetes_validate.utils import ValidationError
from packaging.specifiers import SpecifierSet
from prefect import get_client
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from flows import process, serve
from tests.conftest import ROOT
from tests.flows.conftest import Checkout, Outcome, server, toy, wait  # noqa: F401 - fixtures
from tests.team.hosts import Host

DOCKERFILE = (ROOT / "Dockerfile").read_text()
INSTRUCTIONS = re.findall(
    r"^([A-Z]+) +(.+)$", re.sub(r"\\\n(?:\s*#.*\n)*", " ", DOCKERFILE), re.MULTILINE
)
TEMPLATE = ROOT / "deploy" / "kubernetes" / "base-job-template.json"
RESOURCES = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "worker.yaml").read_text()))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def of(name: str) -> list[str]:
    """The arguments of each such instruction of the Dockerfile."""
    return [arguments for instruction, arguments in INSTRUCTIONS if instruction == name]


def arguments(name: str) -> str:
    """A build argument's default."""
    [value] = [each.partition("=")[2] for each in of("ARG") if each.startswith(f"{name}=")]
    return value


def is_ignored(path: str) -> bool:
    """Whether .dockerignore keeps a file out; the last pattern that matches decides."""
    ignored = False
    above = [Path(path), *Path(path).parents[:-1]]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        depth = pattern.count("/")
        if pattern.startswith("**/"):
            hit = any(fnmatchcase(part.name, pattern[3:]) for part in above)
        else:  # a * stands for no /
            hit = any(
                len(part.parts) == depth + 1
                and all(map(fnmatchcase, part.parts, pattern.split("/")))
                for part in above
            )
        if hit:
            ignored = not line.startswith("!")
    return ignored


# --- Docker ---------------------------------------------------------------------------------------


def test_hadolint_finds_nothing():
    found = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), ROOT / "Dockerfile"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_what_is_copied_is_there():
    for copied in of("COPY"):
        *sources, _ = [word for word in copied.split() if not word.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists()
            assert not is_ignored(source)


def test_every_file_in_git_comes_along_and_git_itself():
    tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    assert [path for path in tracked if path and is_ignored(path)] == []
    assert not is_ignored(".git/HEAD")


@pytest.mark.parametrize(
    "path",
    [".venv/bin/python", ".cache/checkpoints/grpo/x", ".code/sft.json",
     ".dvc/cache/files/md5/00/1", ".dvc/tmp/lock",
     ".dvc/config.local", "models/grpo/model.safetensors", "data/train.jsonl",
     "data/raw/gsm8k.jsonl", "metrics/evaluate/grpo.json", "plots/x.csv", "reports/report.html",
     "exports/grpo/README.md",
     "logs/grpo.log", "rollouts/grpo.jsonl", "samples/grpo.jsonl", "mlflow.db", "mlflow.db-wal",
     "mlartifacts/1/x", "mlruns/0/meta.yaml", "dvc_plots/index.html", "stages/__pycache__/x.pyc",
     ".pytest_cache/x", ".ruff_cache/x", ".hypothesis/x", "x.egg-info/PKG-INFO", "build/lib/x"],
)  # fmt: skip
def test_what_git_ignores_stays_outside(path):
    subprocess.run(["git", "check-ignore", "--no-index", "--quiet", path], cwd=ROOT, check=True)
    assert is_ignored(path)


def pip_install(text: str) -> list[str]:
    """The words after `pip install`."""
    [command] = re.findall(r"pip install ([^&\n]+)", text)
    return shlex.split(command)


def test_it_installs_as_make_does():
    [run] = [each for each in of("RUN") if "pip install" in each]
    *options, wanted = pip_install(run)
    *others, _ = pip_install((ROOT / "Makefile").read_text())
    options.remove("--no-cache-dir")  # which would stay in the layer
    assert options == others
    assert wanted == ".[${EXTRAS}]"
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert set(arguments("EXTRAS").split(",")) == extras.keys() - {"test", "trackers"}
    version = re.match(r"python:(3\.\d+)-slim", arguments("BASE"))[1]
    assert version in SpecifierSet(PYPROJECT["project"]["requires-python"])
    assert f"python{version}" in (ROOT / "Makefile").read_text()


def test_the_files_copied_before_the_install_are_enough_for_it(tmp_path):
    """They are all that the slow layer hangs on."""
    before = INSTRUCTIONS[: next(i for i, (_, a) in enumerate(INSTRUCTIONS) if "pip install" in a)]
    [copied] = [arguments for name, arguments in before if name == "COPY"]
    for source in copied.split()[1:-1]:
        shutil.copy(ROOT / source, tmp_path)
    (tmp_path / "README.md").touch()
    build = "from setuptools import build_meta as b; print(b.prepare_metadata_for_build_wheel('.'))"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    [metadata] = tmp_path.glob("*.dist-info/METADATA")
    assert re.search(r"^Requires-Dist: prefect<", metadata.read_text(), re.MULTILINE)


# --- Kubernetes -----------------------------------------------------------------------------------


def check(resource: dict) -> None:
    """Hold a resource against the published schema; a key that it does not know raises, too."""
    kubernetes_validate.validate(resource, "1.37", strict=True)


def kind(name: str) -> dict:
    [found] = [resource for resource in RESOURCES if resource["kind"] == name]
    return found


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource["kind"])
def test_each_resource_of_the_worker_is_valid(resource):
    check(resource)
    spoilt = copy.deepcopy(resource)
    spoilt["metadata"]["namspace"] = "grpo"
    with pytest.raises(ValidationError, match="namspace"):
        check(spoilt)


@pytest.fixture
def cluster(toy, server, tmp_path) -> Host:  # noqa: F811
    """A checkout whose nightly is sent to Kubernetes."""
    host = Host(tmp_path / "cluster", toy, server)
    host.run("prefect", "work-pool", "create", "grpo-k8s", "--type", "kubernetes",
             "--base-job-template", str(TEMPLATE), "--overwrite")  # fmt: skip
    host.deploy("--name", "nightly", "--pool", "grpo-k8s")
    return host


def job_of(run: Outcome, **variables) -> dict:
    """The job that Prefect's Kubernetes worker would start for a run."""

    async def resolve() -> KubernetesWorkerJobConfiguration:
        async with get_client() as client:
            flow_run = await client.read_flow_run(run.id)
            flow_run.job_variables = variables
            return await KubernetesWorkerJobConfiguration.resolve_for_flow_run(
                flow_run,
                client=client,
                work_pool=await client.read_work_pool("grpo-k8s"),
                worker_name="worker",
            )

    return asyncio.run(resolve()).job_manifest


def pod(job: dict) -> dict:
    return job["spec"]["template"]["spec"]


def less_prefects_own(job: dict) -> dict:
    """Without two keys of a job that Prefect insists on in its pod, where clusters drop them."""
    job = copy.deepcopy(job)
    assert (pod(job).pop("parallelism"), pod(job).pop("completions")) == (1, 1)
    return job


@pytest.mark.long
def test_the_job_of_a_run_is_valid(cluster):
    job = less_prefects_own(job_of(cluster.nightly(), gpus=2, image="registry/x:1"))
    check(job)
    spoilt = copy.deepcopy(job)
    pod(spoilt)["containers"][0]["volumeMount"] = []
    with pytest.raises(ValidationError, match="volumeMount"):
        check(spoilt)
    [container] = pod(job)["containers"]
    assert container["image"] == "registry/x:1"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert container["args"] == ["prefect", "flow-run", "execute"]
    assert "{{" not in json.dumps(job)
    assert (job["spec"]["backoffLimit"], pod(job)["restartPolicy"]) == (0, "Never")
    assert pod(job)["terminationGracePeriodSeconds"] > max(serve.END_S, 2 * process.GRACE_S)


@pytest.mark.long
def test_job_worker_and_image_agree(cluster):
    job = job_of(cluster.nightly())
    worker = kind("Deployment")["spec"]["template"]["spec"]
    claim = kind("PersistentVolumeClaim")["metadata"]
    volumes = {volume["name"]: volume for volume in pod(job)["volumes"]}
    assert volumes["volume"]["persistentVolumeClaim"]["claimName"] == claim["name"]
    assert (
        job["metadata"]["namespace"] == claim["namespace"] == kind("Namespace")["metadata"]["name"]
    )
    [init], [container] = pod(job)["initContainers"], pod(job)["containers"]
    assert init["image"] == container["image"] == worker["containers"][0]["image"]
    [folder] = of("WORKDIR")
    assert f"git clone {folder} {container['workingDir']}" in init["args"][-1]
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
    user = f"{worker['securityContext']['runAsUser']}:{worker['securityContext']['runAsGroup']}"
    assert of("USER") == [user]
    assert pod(job)["securityContext"].items() >= worker["securityContext"].items()


def as_in_the_pod(host: Host, job: dict) -> subprocess.Popen:
    """Start what the job's container runs, in a checkout that the init container's command made."""
    [init], [container] = pod(job)["initContainers"], pod(job)["containers"]
    volume = host.checkout.root.parent / "volume"
    volume.mkdir()
    for _ in range(2):  # the second finds it there
        words = [
            word.replace("/volume", str(volume)).replace("/grpo ", f"{host.checkout.root} ")
            for word in init["args"]
        ]
        subprocess.run(words, check=True)
    root = volume / "checkout"
    shutil.copytree(host.checkout.notes, root / ".notes")
    environment = {each["name"]: each["value"] for each in container["env"]}
    host.checkout = Checkout(root)
    return subprocess.Popen(
        container["args"], cwd=root, env={**host.environment, **environment},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.long
def test_what_the_job_runs_brings_the_volumes_checkout_up_to_date(cluster):
    run = cluster.nightly()
    command = as_in_the_pod(cluster, job_of(run))
    assert run.end().is_completed()
    assert command.wait(120) == 0
    assert run.state.message == "6 stages: 6 ran, 0 cached"
    assert (cluster.checkout.root / "reports/report.md").exists()


@pytest.mark.long
def test_a_job_that_is_evicted_ends_its_stages_and_is_run_again(cluster):
    run = cluster.nightly()
    cluster.checkout.tell("left", "hang")
    command = as_in_the_pod(cluster, job_of(run))
    stages = cluster.checkout.processes("left")
    command.send_signal(signal.SIGTERM)
    assert command.wait(120) == 0
    assert psutil.wait_procs(stages, timeout=0)[1] == []
    assert run.state.name == "AwaitingRetry"
