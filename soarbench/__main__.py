"""``python -m soarbench``, and the console command ``soarbench``."""

from __future__ import annotations

import os
import sys


def _look_here_last() -> None:
    """Modules of the working directory can be named (rewards), but hide no library's."""
    if sys.flags.safe_path:
        return
    # Where python -m puts it; PYTHONPATH may name it too, and means it.
    if sys.path[0] in ("", os.getcwd()):
        del sys.path[0]
    sys.path.append(os.getcwd())


def start() -> int:
    """Run the command line of this process."""
    _look_here_last()
    from soarbench.cli.app import main

    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(start())
