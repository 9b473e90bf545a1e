"""code: which files of stages/ each stage hangs on. It comes first, and takes a moment.

Writes `.code/STAGE.json`, see stages/core/modules.py. It imports nothing heavy, reads no parameter
and is tracked nowhere.
"""

import sys

from stages.core import modules
from stages.core.errors import UserError


def main() -> None:
    try:
        for name in modules.stages():
            modules.write(name)
    except UserError as error:
        sys.exit(f"code: {error}")


if __name__ == "__main__":
    main()
