"""Where MLflow keeps runs: how that is opened, and what is wrong when it cannot be."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import requests
from alembic.util import CommandError
from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from baselines.loop.disk import remove_partials
from soarbench.common.errors import NotDelivered, TrackerAway, UserError, without_passwords
from soarbench.common.files import write_atomically
from soarbench.config.run import TrackingConfig
from soarbench.tracking.moved import follow

#: Seconds to wait for other processes; making a store takes 1 to 8, opening one less.
_PATIENCE = 60
#: MLflow's own are 7 retries and 120 s: it takes 4.5 minutes to find that a server is away, and
#: 16 that it hangs. One retry stays, for connections that a server closed while nothing was sent.
_BRIEF_AND_QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "9",
    "PGCONNECT_TIMEOUT": "9",
    # Two lines a run, with the password of the address.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
#: What databases say of an address that will never work, however long one waits.
_MISTAKES = ("authentication failed", "does not exist", "no such file", "Access denied")
#: Names the right to make tables and experiments in PostgreSQL, among all programs that use it.
_ADVISORY_LOCK = int.from_bytes(b"soarben", "big")


def store_uri(config: TrackingConfig, output_dir: Path) -> str:
    """Where MLflow keeps runs."""
    # Absolute: MLflow stores the paths of artifacts, and is read from other folders.
    return config.uri or f"sqlite:///{_in_address(output_dir.resolve() / 'mlruns.db')}"


def _in_address(path: Path) -> str:
    """A file as SQLAlchemy takes it: a ? would begin its settings, and %20 be a space.

    Other letters stay, since MLflow makes the folder that an address names without unescaping it:
    beside ``müller`` one called ``m%C3%BCller``, or none where it may not.
    """
    return str(path).replace("%", "%25").replace("?", "%3F")


def artifact_root(config: TrackingConfig, output_dir: Path) -> str | None:
    """Where artifacts of new experiments go; None leaves it to the server."""
    if config.artifacts is not None or config.uri is not None:
        return config.artifacts
    return (output_dir.resolve() / "mlartifacts").as_uri()


def sqlite_file(uri: str) -> Path | None:
    """The file that a store's address names; None for a server, memory, or no address at all."""
    try:
        address = make_url(uri)
    # Of some addresses, such as http://[::1, it says no more than what int() says.
    except (ArgumentError, ValueError):
        return None
    name = address.database or ":memory:"
    is_file = address.get_backend_name() == "sqlite" and not name.startswith((":memory:", "file:"))
    return Path(name) if is_file else None


class _NoRetries(logging.Filter):
    """Drops urllib3's lines about requests to MLflow, which is reported once, in one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "/mlflow" not in record.getMessage()


def be_brief_and_quiet(uri: str) -> None:
    """Shorten MLflow's waiting, unless the user chose it, and keep its logs off the console."""
    for name, value in _BRIEF_AND_QUIET.items():
        os.environ.setdefault(name, value)
    if sqlite_file(uri) is not None:
        # A pool's connections would go on writing into a file that somebody deleted.
        os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
    # They say a line for each of the 68 migrations of a new store, and a traceback for a lock.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    pool = logging.getLogger("urllib3.connectionpool")
    if not any(isinstance(one, _NoRetries) for one in pool.filters):
        pool.addFilter(_NoRetries())


@contextlib.contextmanager
def delivering(uri: str) -> Iterator[None]:
    """Turn what goes wrong between us and a store that was opened into ``NotDelivered``."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, requests.RequestException) as error:
        kind = TrackerAway if _is_away(uri, error) else NotDelivered
        raise kind(f"MLflow at {without_passwords(uri)}: {_reason(error)}") from error


@contextlib.contextmanager
def opened(config: TrackingConfig, output_dir: Path) -> Iterator[str | None]:
    """As ``opening``, of what is configured; one of the output directory goes where that goes.

    -> The artifact root.
    """
    uri, root = store_uri(config, output_dir), artifact_root(config, output_dir)
    with opening(uri, root):
        if config.uri is None and config.artifacts is None:
            assert root is not None
            follow(uri, root)
        yield root


@contextlib.contextmanager
def opening(uri: str, artifact_root: str | None) -> Iterator[None]:
    """Hold a store against other processes that open it, too; a SQLite store is made if need be.

    ``artifact_root`` is that of a new store's default experiment; None is MLflow's own choice.

    Raises:
        TrackerAway: It does not answer, or another process does not let go.
        UserError: It will never answer: the address, its driver or the file is wrong.
    """
    be_brief_and_quiet(uri)
    path = sqlite_file(uri)
    try:
        with _file_held(path, uri, artifact_root) if path is not None else _database_held(uri):
            yield
    # MLflow wraps no error of its migrations: they came as 90 lines of Alembic's or SQLAlchemy's.
    # ValueError is what urllib says of some addresses, ImportError what SQLAlchemy says of drivers.
    except (
        MlflowException, SQLAlchemyError, CommandError, requests.RequestException, ImportError,
        ValueError,
    ) as error:  # fmt: skip
        if _is_away(uri, error):
            raise TrackerAway(f"MLflow at {without_passwords(uri)}: {_reason(error)}") from error
        raise UserError(f"{_mistake(uri, error)}, or set tracking=none") from error


def _is_away(uri: str, error: Exception) -> bool:
    """Whether it may go better later without anybody's help."""
    if sqlite_file(uri) is not None:
        # A file that was deleted or emptied is made again by the next try.
        return "locked" in str(error)
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        # A server that answers "no" is no server that is away. To a database MLflow gives the
        # number 500 for whatever is wrong, and 503 where the database did not answer.
        return bool(status >= 500 if uri.startswith("http") else status == 503)
    if isinstance(error, OperationalError):
        words = str(error.orig)
        return not any(mistake in words for mistake in _MISTAKES)
    return isinstance(error, requests.RequestException)


def _reason(error: Exception) -> str:
    """The first line of an error, without passwords."""
    lines = str(error).strip().splitlines()
    return without_passwords(lines[0]) if lines else type(error).__name__


def _mistake(uri: str, error: Exception) -> str:
    """One line for an address that cannot be used, and the remedy."""
    file = sqlite_file(uri)
    if file is not None:
        return (
            f"{file}: cannot be used for tracking ({_reason(error)}); it is broken: move it away, "
            "and the next run makes a new one (no result is lost)"
        )
    remedy = "check the address"
    if isinstance(error, ImportError):
        remedy = f"install the driver with 'pip install {error.name}'"
        if uri.startswith("postgresql"):
            remedy = "install the driver with 'pip install soarbench[postgres]'"
    if isinstance(error, ImportError) and error.name == "psycopg2":
        remedy += " and write postgresql+psycopg://"
    return f"tracking.uri={without_passwords(uri)} cannot be used ({_reason(error)}); {remedy}"


@contextlib.contextmanager
def _file_held(path: Path, uri: str, artifact_root: str | None) -> Iterator[None]:
    # MLflow's migrations are no transaction. Killed in their midst (23 of 48 trials), or run by
    # several processes at once (8 of 8), they left a file that no later run could open. Its default
    # experiments and tags race, too.
    lock = FileLock(path.with_name(f"{path.name}.lock"), timeout=_PATIENCE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = lock.acquire()
    except Timeout as error:
        raise TrackerAway(
            f"{path}: another process has held {lock.lock_file} for {_PATIENCE} s"
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
        with _connected(uri):
            yield


@contextlib.contextmanager
def _database_held(uri: str) -> Iterator[None]:
    """As a file is: two processes would both find no table, or no experiment, and make it."""
    if not uri.startswith("postgresql"):
        yield
        return
    with _connected(uri) as connection:
        connection.execute(text(f"SET lock_timeout = '{_PATIENCE}s'"))
        # Let go of when the connection ends, however its process does.
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
        yield


@contextlib.contextmanager
def _connected(uri: str) -> Iterator[Connection]:
    """Try a database once: MLflow would try ten times, for minutes, with a warning each."""
    engine = create_engine(uri, poolclass=NullPool)
    with engine.connect() as connection:
        # SQLite opens a file without reading it.
        inspect(connection).has_table("experiments")
        yield connection


def _make(path: Path, *, uri: str, artifact_root: str | None) -> None:
    """Make a store under the name ``path``, over whatever an interrupted try left there."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # And SQLite's journals beside it, which would be replayed into the new one.
    remove_partials(path.parent, ".*.partial*")
    blank = make_url(uri).set(database="x").render_as_string(hide_password=False)
    address = blank.replace(":///x", f":///{_in_address(path)}", 1)
    store = SqlAlchemyStore(address, artifact_root or DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
    # No connection may keep the name that the file is about to lose.
    store.engine.dispose()
