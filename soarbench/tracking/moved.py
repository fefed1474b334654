"""A store that was copied or moved with its output directory, and still names the old place."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

#: MLflow makes each address absolute when it stores it, also of a relative artifact root.
_ADDRESSES = (
    ("experiments", "artifact_location"), ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"), ("model_versions", "storage_location"),
)  # fmt: skip
#: Hold our tag ``folder``, by which a cell's run is found again.
_TAGS = (("tags", "key", "value"), ("logged_model_tags", "tag_key", "tag_value"))


def follow(uri: str, artifacts: str) -> None:
    """Have a SQLite store name the folder that it lies in; the caller holds it.

    Else a copy would write its pictures into the original, and a moved one would have lost them.

    Args:
        uri: Of the store.
        artifacts: Its artifact root, as a file's address beside the store's file.
    """
    engine = create_engine(uri, poolclass=NullPool)
    with engine.begin() as connection:
        before = _root(connection, artifacts)
        if before == artifacts:
            return
        for table, column in _ADDRESSES:
            _replace(connection, table, column, before, artifacts)
        for table, key, column in _TAGS:
            old, new = (str(_folder(root)) for root in (before, artifacts))
            _replace(connection, table, column, old, new, f"AND {key} = 'folder'")


def _root(connection: Connection, artifacts: str) -> str:
    """Where the store believes its artifacts to be: the place of MLflow's default experiment."""
    sql = text("SELECT artifact_location FROM experiments WHERE experiment_id = 0")
    place = str(connection.execute(sql).scalar() or "").removesuffix("/0")
    # Somewhere else altogether is a store that the user made, whose places are the user's.
    is_ours = place.startswith("file://") and Path(place).name == Path(artifacts).name
    return place if is_ours else artifacts


def _folder(root: str) -> Path:
    return Path(unquote(urlsplit(root).path)).parent


def _replace(
    connection: Connection, table: str, column: str, before: str, after: str, condition: str = ""
) -> None:
    """Replace the folder at the beginning of a column's values."""
    sql = (
        f"UPDATE {table} SET {column} = :after || substr({column}, length(:before) + 1) "
        f"WHERE substr({column} || '/', 1, length(:before) + 1) = :before || '/' {condition}"
    )
    connection.execute(text(sql), {"before": before, "after": after})
