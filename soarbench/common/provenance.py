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

#: Of the files of a run folder. Rises when a reader of the one before would misread them; cells
#: that were written before there was a number are 1.
STORE_VERSION = 2
UNKNOWN = "unknown"


def git_commit() -> str:
    """Commit of the code that runs; ``unknown`` outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return UNKNOWN
    return done.stdout.strip() if done.returncode == 0 else UNKNOWN


def command_line() -> str:
    """The command that this process was started with, as it can be typed again."""
    program, *arguments = sys.argv
    is_module = Path(program).name == "__main__.py"
    return shlex.join([*(("python", "-m", "soarbench") if is_module else (program,)), *arguments])


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
