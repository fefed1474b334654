"""The one reader of cells: reports ask a ``Cell``, and open no file of it themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from PIL import Image

from evaluators.images import ImageError, load_image
from soarbench.common.errors import Damaged, StoreError
from soarbench.common.provenance import UNKNOWN
from soarbench.config.stages import BASE
from soarbench.store.artefact import Store
from soarbench.store.cell_record import CellRecord, Status
from soarbench.store.scores import Prompt, ScoreSet, logged_values, prompts_of, score_sets, tags_of
from soarbench.store.tables import CellTables, Facts, StoredTables, labelled
from soarbench.store.training import TrainingFolder

if TYPE_CHECKING:
    # Statistics load scipy, for which a command that only looks cannot wait.
    from soarbench.stats.clusters import FloatArray, IntArray

FINISHED = "finished"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A process that worked on a cell's artefacts; see ``provenance.this_launch``."""

    # Records of older versions do not say all of it.
    command: str = UNKNOWN
    git_commit: str = UNKNOWN
    soarbench: str = UNKNOWN
    python: str = UNKNOWN
    platform: str = UNKNOWN


def launch_of(values: Mapping[str, object]) -> Launch:
    """A launch from its record."""
    known = [entry.name for entry in fields(Launch) if entry.name in values]
    return Launch(**{name: str(values[name]) for name in known})


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell: its names and state, and what there is of it.

    Attributes:
        tables: Its numbers and images, wherever they lie.
        description: As plain JSON (``soarbench.grid.description``).
        state: ``finished``, ``failed``, ``running`` or ``not started``.
        budget: What training spent, by name.
        code: Digest of each module that determined its artefacts, when they were begun.
    """

    tables: CellTables
    description: Mapping[str, Any]
    state: str
    reason: str | None = None
    mlflow_run_id: str | None = None
    budget: Mapping[str, float] = field(default_factory=dict)
    created_at: float = 0.0
    launches: tuple[Launch, ...] = ()
    code: Mapping[str, str] = field(default_factory=dict)

    @property
    def cell_id(self) -> str:
        """Method, task, seed and the digest of the weights."""
        return str(self.description["cell_id"])

    @property
    def task(self) -> str:
        """Name; ``base`` for the base model."""
        return str(self.description["task"])

    @property
    def method(self) -> str:
        """Name; ``base`` for the base model."""
        return str(self.description["method"])

    @property
    def title(self) -> str | None:
        """Of the method, for people; None in older exports, which do not say it."""
        return self._text("title")

    @property
    def trial_of(self) -> str | None:
        """The method whose settings its grid chooses among; None in grids that choose none."""
        return self._text("trial_of")

    @property
    def seed(self) -> int:
        """Of training."""
        return int(self.description["seed"])

    @property
    def label(self) -> str:
        """For people: method, task and seed."""
        return BASE if self.is_base else f"{self.method} {self.task} seed {self.seed}"

    @property
    def steps(self) -> tuple[int, ...]:
        """At which images are evaluated, ascending."""
        return tuple(map(int, self._list("steps")))

    @property
    def final_metric(self) -> str | None:
        """Judge that decides; None for the base model."""
        return self._text("final_metric")

    @property
    def metrics(self) -> tuple[str, ...]:
        """All judges."""
        return tuple(self._list("metrics"))

    @property
    def data_key(self) -> str | None:
        """Name of the data it trained on; None for the base model."""
        return self._text("data_key")

    @property
    def config(self) -> Facts:
        """Its whole configuration, as plain JSON values."""
        config = self.description["config"]
        return config if isinstance(config, Mapping) else {}

    @property
    def is_base(self) -> bool:
        """Whether it is the untouched model, which all tasks share."""
        return self.task == BASE

    @property
    def is_evaluated_only(self) -> bool:
        """Whether it is the base with published weights or another sampler."""
        return not self.is_base and self.config.get("training", {}) is None

    def _text(self, key: str) -> str | None:
        value = self.description.get(key)
        return None if value is None else str(value)

    def _list(self, key: str) -> list[str]:
        value = self.description[key]
        # A text in its place would be taken apart letter by letter without a word.
        if not isinstance(value, list):
            raise StoreError(f"{value!r} is no list: the description of a cell is damaged")
        return value

    def scores(self, pool: dict[bytes, np.ndarray] | None = None) -> list[ScoreSet]:
        """All scores; see ``score_sets``."""
        return score_sets(self.tables.scores(), self.cell_id, pool)

    def tags(self, judge: str) -> dict[str, str]:
        """The ``tag`` that a judge's scores name, by prompt."""
        return tags_of(self.tables.scores(), judge)

    def prompts(self) -> list[Prompt]:
        """Every prompt that was judged, by id."""
        return prompts_of(self.tables.scores())

    def training(self) -> dict[str, tuple[IntArray, FloatArray]]:
        """What training logged: key to (steps, values); empty without a log."""
        return logged_values(self.tables.training())

    def protocols(self) -> dict[tuple[str, str], Facts]:
        """The protocols by (suite, judge); empty where they were not kept."""
        return self.tables.protocols()

    def has_diagnostics(self, key: str) -> bool:
        """Whether its images and, on the data of that ``data_key``, its velocity were measured."""
        return self.statistics() is not None and self.norms(key) is not None

    def statistics(self) -> pa.Table | None:
        """Statistics of images, with step and suite; None without diagnostics.

        A row an image, or in an export a row a prompt: the means of its images.
        """
        return self.tables.probe("images")

    def norms(self, key: str) -> pa.Table | None:
        """RMS of the velocity along the data of that key; None where it was not measured."""
        return self.tables.probe("norms", key)

    def exposure(self, key: str) -> pa.Table | None:
        """Measures of exposure bias; None as ``norms``, and where another version measured."""
        table = self.tables.probe("exposure", key)
        # A sampler of a single step has no states of its own.
        return table if table is not None and table.num_rows else None

    def robustness(self) -> pa.Table | None:
        """Scores of the last step by several samplers; None where not all of them were judged."""
        table = self.tables.probe("robustness")
        # Earlier versions had no guidance among the settings: each was the usual one.
        if table is not None and "guidance_scale" not in table.column_names:
            sampling = self.description["config"]["sampling"]
            table = labelled(table, guidance_scale=sampling["guidance_scale"])
        return table

    def image(self, step: int, prompt_id: str, image_index: int) -> Image.Image | None:
        """An image as it was drawn; None where it is not stored."""
        path = self.tables.image_file(step, prompt_id, image_index)
        if path is None:
            return None
        try:
            return load_image(path)
        except ImageError as error:
            drawn = [facts["images"][str(step)] for facts in self.description["suites"].values()]
            address = next(one for one in drawn if f"/{one}/" in path.as_posix())
            text = f"{path} is damaged; the command of the run draws it again"
            raise Damaged(text, address) from error

    def strip(self, task: str, step: int) -> Image.Image | None:
        """The samples of a task beside each other, as ``export`` leaves them; None without."""
        return self.tables.strip(task, step)

    def strip_prompts(self, task: str) -> dict[str, str]:
        """Texts of a strip's prompts by id, in its order; empty without one."""
        return self.tables.strip_prompts(task)


@dataclass(frozen=True, kw_only=True)
class Hole:
    """Something that should be in the report and is not, and why; without evaluator, all of it."""

    cell_id: str
    task: str
    method: str
    seed: int
    evaluator: str | None = None
    reason: str

    def describe(self) -> str:
        """One line for people."""
        part = f", {self.evaluator}" if self.evaluator else ""
        return f"{self.cell_id}{part}: {self.reason}"


def stored_cell(store: Store, description: Mapping[str, Any], record: CellRecord) -> Cell:
    """A cell whose artefacts are in a store; ``StoreError`` where a finished one has lost some."""
    status = record.status()
    known = status or Status()
    origin = description["training"]
    launches, code = _made_by(store, description, is_whole=known.state == FINISHED)
    return Cell(
        tables=StoredTables(store=store, description=description), description=description,
        state="not started" if status is None else status.state,
        reason=known.reason, mlflow_run_id=known.mlflow_run_id, created_at=known.created_at,
        budget={} if origin is None else TrainingFolder(store.artefact(origin).root).cost(),
        launches=launches, code=code,
    )  # fmt: skip


def _made_by(
    store: Store, description: Mapping[str, Any], *, is_whole: bool
) -> tuple[tuple[Launch, ...], dict[str, str]]:
    """The launches that worked on a cell's training, images and scores, and their code."""
    addresses = [description["training"]] if description["training"] else []
    for facts in description["suites"].values():
        addresses += facts["images"].values()
        addresses += [address for steps in facts["scores"].values() for address in steps.values()]
    launches: dict[Launch, None] = {}
    code: dict[str, str] = {}
    for artefact in map(store.artefact, dict.fromkeys(addresses)):
        stored = artefact.record()
        if stored is not None:
            launches |= dict.fromkeys(map(launch_of, stored.launches))
            code |= stored.code
        # Without its record nobody can say what made a number, however whole it looks.
        elif is_whole:
            raise StoreError(
                f"{artefact.root / 'artefact.json'} is missing; give the command of the run again, "
                "which makes it again"
            )
    return tuple(launches), code


def finished_and_holes(cells: Sequence[Cell], where: str) -> tuple[list[Cell], list[Hole]]:
    """The cells of a grid that can be reported, and a hole for each other; both by cell id.

    Raises:
        StoreError: No cell is finished, or two are the same method, task and seed; says ``where``.
    """
    cells = sorted(cells, key=lambda cell: cell.cell_id)
    holes = [
        Hole(
            cell_id=cell.cell_id, task=cell.task, method=cell.method, seed=cell.seed,
            reason=cell.state if cell.reason is None else f"{cell.state}: {cell.reason}",
        )
        for cell in cells
        if cell.state != FINISHED
    ]  # fmt: skip
    finished = [cell for cell in cells if cell.state == FINISHED]
    if not finished:
        # One line for people: three reasons show what went wrong, and there may be a thousand.
        reasons = "; ".join(hole.describe() for hole in holes[:3])
        raise StoreError(
            f"{where} holds no finished cell" + (f" ({reasons})" if reasons else "") + "; run the "
            "grid first, or name its output_dir="
        )
    owners: dict[tuple[str, str, int], Cell] = {}
    for cell in finished:
        other = owners.setdefault((cell.task, cell.method, cell.seed), cell)
        # Two configurations of one method would be averaged as if they were two seeds.
        if other is not cell:
            raise StoreError(
                f"{cell.cell_id} and {other.cell_id} are the same method, task and seed with "
                "different configurations; report with the overrides of the one you mean"
            )
    return finished, holes
