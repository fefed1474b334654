"""``python -m soarbench``, and the console command ``soarbench``."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

#: What the command line itself imports, at once or later; whoever has these was installed whole.
_NEEDED = ("typing_extensions", "yaml", "numpy", "omegaconf", "hydra", "rich")
_EXIT_USER_ERROR = 2


def _look_here_last() -> None:
    """Modules of the working directory can be named (rewards), but hide no library's."""
    if sys.flags.safe_path:
        return
    # Where python -m puts it; PYTHONPATH may name it too, and means it.
    if sys.path[0] in ("", os.getcwd()):
        del sys.path[0]
    sys.path.append(os.getcwd())


def _say_missing(name: str) -> int:
    """One line, where this Python is not the one that soarbench was installed into."""
    sys.stderr.write(
        f"soarbench: error: {sys.executable} has no module {name!r}, which soarbench needs: in a "
        "checkout type 'make setup', then '. .venv/bin/activate'; elsewhere install it by "
        "'python -m pip install DIR_OR_WHEEL'\n"
    )
    return _EXIT_USER_ERROR


def start() -> int:
    """Run the command line of this process."""
    _look_here_last()
    # Asked, and not tried: an error inside of a package that is there is no missing package.
    for name in _NEEDED:
        if find_spec(name) is None:
            return _say_missing(name)
    from soarbench.cli.app import main

    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(start())
