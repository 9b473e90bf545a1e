"""serve: a final model behind an OpenAI-style API. A command, no stage.

usage: python -m stages.serve [--model grpo|student|PATH] [--host 127.0.0.1] [--port 8000]

The server is vLLM where that is installed, else transformers' own; this only starts it. A request
names the model as it is printed here (models/grpo).
"""

import argparse
import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

from stages.core import models
from stages.core.errors import UserError

NAMES = ("base", "sft", "grpo", "student")
INSTALL = 'pip install -c constraints.txt ".[serve]"'


def main() -> None:
    asked = arguments()
    try:
        folder = located(asked.model)
        require_free(asked.host, asked.port)
        command = vllm(folder, asked) if find_spec("vllm") else transformers(folder, asked)
    except UserError as error:
        sys.exit(f"serve: {error}")
    url = f"http://{asked.host}:{asked.port}/v1"
    print(f"serve: {folder} on {url} (the model's name in requests: {folder})", flush=True)
    os.execv(sys.executable, command)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.serve", description="A final model behind an OpenAI-style API."
    )
    parser.add_argument("--model", default="grpo", metavar="|".join([*NAMES, "PATH"]))
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    parser.add_argument("--port", type=int, default=8000)
    return parser.parse_args()


def located(model: str) -> str:
    """The folder that a server is told to load; of a manifest, what that stands for."""
    where = models.located(Path("models", model) if model in NAMES else Path(model))
    folder = where["pretrained_model_name_or_path"]
    if "@" in folder or ":" in folder:  # transformers reads a revision or a file behind them
        raise UserError(f"{folder}: the server reads no path with @ or : in it: rename the folder")
    return folder


def require_free(host: str, port: int) -> None:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except (OSError, OverflowError) as error:
            raise UserError(f"{host}:{port} cannot be had ({error}): name another --port") from None


def vllm(folder: str, asked: argparse.Namespace) -> list[str]:
    return [
        sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", folder,
        "--served-model-name", folder, "--host", asked.host, "--port", str(asked.port),
    ]  # fmt: skip


def transformers(folder: str, asked: argparse.Namespace) -> list[str]:
    """`transformers serve`, which needs openai's types.

    Raises:
        UserError: they are not installed.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    if not find_spec("openai"):
        raise UserError(f"openai is not installed, which transformers' server needs: {INSTALL}")
    Path(HF_HUB_CACHE).mkdir(parents=True, exist_ok=True)  # /v1/models fails without it
    return [sys.executable, "-m", "transformers.cli.transformers", "serve", folder,
            "--host", asked.host, "--port", str(asked.port)]  # fmt: skip


if __name__ == "__main__":
    main()
