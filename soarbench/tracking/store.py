"""The SQLite file that MLflow keeps runs in: made whole or not at all, by one process at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout
from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from baselines.loop.disk import remove_partials
from soarbench.common.errors import UserError
from soarbench.common.files import write_atomically

#: Seconds to wait for another process; making a store takes 1 to 8, opening one less.
_PATIENCE = 300


def sqlite_file(uri: str) -> Path | None:
    """The file that a store's address names; None for a server, memory, or no address at all."""
    try:
        address = make_url(uri)
    except ArgumentError:
        return None
    name = address.database or ":memory:"
    is_file = address.get_backend_name() == "sqlite" and not name.startswith((":memory:", "file:"))
    return Path(name) if is_file else None


@contextlib.contextmanager
def opening(uri: str, artifact_root: str | None) -> Iterator[None]:
    """Hold a SQLite store, made where there is none, against other processes that open it.

    A store on a server is left to the server. ``artifact_root`` is that of a new store's default
    experiment; None is MLflow's own choice.

    Raises:
        UserError: Another process does not let go, or the folder cannot be written to.
    """
    path = sqlite_file(uri)
    if path is None:
        yield
        return
    # MLflow's migrations are no transaction. Killed in their midst (23 of 48 trials), or run by
    # several processes at once (8 of 8), they left a file that no later run could open. Its default
    # experiments and tags race, too.
    lock = FileLock(path.with_name(f"{path.name}.lock"), timeout=_PATIENCE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{path}: another process has held {lock.lock_file} for {_PATIENCE} s; "
            "end it or set tracking=none"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path}: its folder cannot be written to ({error}); change output_dir or "
            "set tracking=none"
        ) from error
    with held:
        # Nothing at all is what a version that made the file in place left when killed at once.
        if not path.is_file() or path.stat().st_size == 0:
            write_atomically(path, partial(_make, uri=uri, artifact_root=artifact_root))
        yield


def _make(path: Path, *, uri: str, artifact_root: str | None) -> None:
    """Make a store under the name ``path``, over whatever an interrupted try left there."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # And SQLite's journals beside it, which would be replayed into the new one.
    remove_partials(path.parent, ".*.partial*")
    address = make_url(uri).set(database=str(path)).render_as_string(hide_password=False)
    store = SqlAlchemyStore(address, artifact_root or DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
    # No connection may keep the name that the file is about to lose.
    store.engine.dispose()
