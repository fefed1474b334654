"""What makes two cells seeds of one configuration, so that MLflow never averages two."""

from __future__ import annotations

from collections.abc import Mapping

from soarbench.config.stages import BASE
from soarbench.grid.addresses import digest
from soarbench.store.artefact import Store
from soarbench.store.cells import Cell
from soarbench.store.tables import StoredTables

#: Of the sampler: changes no number.
_SPEED = ("batch_size",)


def configuration(cell: Cell) -> str:
    """Names all settings of a cell but its seed: method, task, updates, and a digest."""
    assert isinstance(cell.tables, StoredTables), "an export is not logged"
    sampling = cell.config.get("sampling")
    measured = sampling if isinstance(sampling, Mapping) else {}
    content = {
        "weights": _weights(cell.tables.store, cell.description["training"]),
        "base": cell.config.get("weights_digest"),
        "sampling": {key: value for key, value in measured.items() if key not in _SPEED},
    }
    name = BASE if cell.is_base else f"{cell.method} {cell.task}, {cell.steps[-1]} updates"
    return f"{name} ({digest(content)[:6]})"


def _weights(store: Store, address: str | None) -> str | None:
    """Digest of a training without its seed, nor that of the training that it goes on from."""
    stored = None if address is None else store.artefact(address).record()
    if stored is None:
        return None
    parent = stored.content.get("parent")
    content = {key: value for key, value in stored.content.items() if key != "seed"}
    if isinstance(parent, list | tuple):
        content["parent"] = [_weights(store, str(parent[0])), parent[1]]
    return digest(content)
