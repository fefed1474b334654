"""Who trains into a folder: a process that comes back late writes nothing into it."""

from __future__ import annotations

import json
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from baselines.loop.disk import write_whole

#: Tells processes that train together which owner they work for.
OWNER_VARIABLE = "SOARBENCH_OWNER"
_FILE = "owner.json"


class TakenOver(RuntimeError):
    """Another process trains into the folder by now."""


# Beside the lock of the store, which a network disk may keep from no other node.
@dataclass(frozen=True)
class Owner:
    """The right to write into a folder, until another process claims it."""

    folder: Path
    token: str

    @classmethod
    def claim(cls, folder: Path) -> Owner:
        """Take a folder over, from whoever has it."""
        token = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(8)}"
        write_whole(folder / _FILE, lambda partial: partial.write_text(json.dumps(token)))
        return cls(folder, token)

    @classmethod
    def current(cls, folder: Path) -> Owner:
        """The owner that this process works for; a new one where there is none."""
        token = os.environ.get(OWNER_VARIABLE) or _token(folder)
        return cls.claim(folder) if token is None else cls(folder, token)

    def check(self) -> None:
        """Raise ``TakenOver`` if another process has claimed the folder."""
        token = _token(self.folder)
        if token != self.token:
            raise TakenOver(
                f"{self.folder} was taken over by {token or 'nobody known'}; nothing more is "
                "written into it from here"
            )


def _token(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / _FILE).read_bytes()))
    except (FileNotFoundError, ValueError):
        return None
