"""Where numbers come from: the command, the commit and the versions that made a cell."""

from __future__ import annotations

import functools
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

from soarbench import __version__
from soarbench.common.errors import without_passwords

#: Of the files of a run folder. Rises when a reader of the one before would misread them; cells
#: that were written before there was a number are 1.
STORE_VERSION = 3
UNKNOWN = "unknown"


@functools.cache
def git_commit() -> str:
    """Commit of the code that runs, ``-dirty`` after changes; ``unknown`` outside a checkout."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return UNKNOWN
    # Files that git does not know, such as results, change no code.
    return f"{commit}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else commit


def _git(*words: str) -> str | None:
    """What git says about the package's own checkout; None where there is none."""
    command = ["git", "-C", str(Path(__file__).parent), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None  # There is no git on this machine.
    return done.stdout.strip() if done.returncode == 0 else None


def command_line() -> str:
    """The command that this process was started with, without passwords."""
    program, *arguments = sys.argv
    # ``python -m`` puts the path of __main__.py there, which is of this machine, as is the place of
    # the console command.
    names = {"__main__.py": ["python", "-m", "soarbench"], "soarbench": ["soarbench"]}
    words = [*names.get(Path(program).name, [program]), *arguments]
    # It is stored, shown in reports and published.
    return without_passwords(shlex.join(words))


@functools.cache
def this_launch() -> dict[str, object]:
    """What a cell keeps of the process that works on it."""
    return {
        "command": command_line(),
        "git_commit": git_commit(),
        "soarbench": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "started_at": time.time(),
    }
