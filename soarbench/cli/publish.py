"""``publish``: a trained cell's weights with a model card, on disk or on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from baselines.loop.checkpoints import snapshot_damage
from soarbench.cli.export import clean_commands
from soarbench.common.errors import UserError
from soarbench.common.files import write_atomically
from soarbench.common.progress import print_line
from soarbench.common.strict import did_you_mean
from soarbench.config.keys import Options
from soarbench.models.hub import hub_licence, hub_upload, require_token
from soarbench.report.card import base_of, card_text, is_hub_id
from soarbench.report.numbers.protocols import refuse_unlike
from soarbench.report.source import GridCells, grid_cells
from soarbench.store.cells import Cell, finished_and_holes
from soarbench.store.tables import StoredTables
from soarbench.store.training import TrainingFolder


@dataclass(frozen=True, kw_only=True)
class PublishOptions(Options):
    """What ``publish`` takes beside the settings of a run.

    Attributes:
        repo: Repository of the hub, ``USER/NAME``; null writes the card alone.
        license: Of the base model; null asks the card of the base.
        private: Whether a new repository is seen by its owner alone.
    """

    example: ClassVar[str] = "publish CELL_ID grid=reward_specific"
    repo: str | None = None
    license: str | None = None
    private: bool = True

    def __post_init__(self) -> None:
        if self.repo is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo):
            raise ValueError(f"repo={self.repo}: write USER/NAME, as the hub names repositories")


def publish(
    name: str, options: PublishOptions, settings: Sequence[str], *, console: Console
) -> int:
    """Write the card of a finished cell beside its last snapshot, and upload both if asked."""
    if options.repo is not None:
        require_token(options.repo)
    source = grid_cells(settings)
    cell, cells = _chosen(name, source)
    weights = _weights(cell)
    card = weights.with_name(f"{weights.name}.README.md")
    text = card_text(
        cell, cells, baseline=source.baseline, licence=options.license or _licence(cell),
        weights=weights, place=options.repo or "USER/NAME",
    )  # fmt: skip
    write_atomically(card, lambda partial: partial.write_text(text))
    print_line(console, f"{card}: the card of {weights}")
    if options.repo is None:
        print_line(console, "read it, then upload both with repo=USER/NAME")
        return 0
    files = {path.relative_to(weights).as_posix(): path for path in weights.rglob("*")}
    files = {place: path for place, path in files.items() if path.is_file()}
    # Over the one that peft writes.
    address = hub_upload(options.repo, {**files, "README.md": card}, private=options.private)
    print_line(console, f"uploaded: {address}")
    return 0


def _chosen(name: str, source: GridCells) -> tuple[Cell, list[Cell]]:
    """A finished cell by its id, and all finished cells, without folders in their commands."""
    finished, _ = finished_and_holes(source.cells, str(source.folder))
    refuse_unlike(finished)
    clean = clean_commands(finished)
    cells = [
        replace(
            cell,
            launches=tuple(replace(one, command=clean[one.command]) for one in cell.launches),
        )
        for cell in finished
    ]
    chosen = {cell.cell_id: cell for cell in cells if not cell.is_base}
    if name not in chosen:
        hint = did_you_mean(name, chosen)
        raise UserError(f"{name} is no finished trained cell of grid {source.grid}: {hint}")
    return chosen[name], cells


def _weights(cell: Cell) -> Path:
    """The snapshot of a cell's last step."""
    if not isinstance(cell.tables, StoredTables):
        raise UserError(
            f"{cell.cell_id} is of an export, which has no weights: name the output_dir"
        )
    origin = cell.tables.store.artefact(cell.description["training"])
    weights = TrainingFolder(origin.root).snapshot(cell.steps[-1])
    if fault := snapshot_damage(weights):
        raise UserError(f"{weights} {fault}; give the command of the run again")
    return weights


def _licence(cell: Cell) -> str:
    """The licence of the base as its own card says it."""
    base = base_of(cell)
    licence = hub_licence(base) if is_hub_id(base) or Path(base).is_dir() else None
    if licence is None:
        raise UserError(
            f"the licence of the base {base} is not known here; write license=NAME, as the hub "
            "spells it, e.g. license=apache-2.0"
        )
    return licence
