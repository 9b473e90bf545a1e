"""The pipeline's stages: one file a stage, each run as `python -m stages.NAME`."""

import sys
from importlib.util import find_spec

if find_spec("torch") is None or find_spec("pydantic") is None:
    sys.exit(
        f"{sys.executable} has none of the project's packages: "
        "run `make venv`, then `source .venv/bin/activate`."
    )
