"""What everything expensive leaves on disk: a folder under an address of its own, with a record.

An address is the digest of exactly what determines the content; see ``grid.addresses``.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from baselines.loop.disk import StorageError, remove_partials
from soarbench.common.errors import UserError
from soarbench.common.files import read_record, write_atomically, write_record
from soarbench.common.provenance import STORE_VERSION, this_launch
from soarbench.common.strict import build

#: Kinds of artefacts are folders of the store, in the order in which they are made.
KINDS = ("trainings", "images", "scores", "probes")
_RECORD = "artefact.json"
_SECONDS_BETWEEN_TRIES = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, order=True)
class Extent:
    """A part of a suite for which an artefact is whole: evenly spaced prompts; None: all."""

    max_prompts: int | None
    images_per_prompt: int

    def covers(self, other: Extent) -> bool:
        """Whether every image of the other is one of these."""
        # Evenly spaced prompts of two numbers are not in each other; all prompts hold any.
        holds_prompts = self.max_prompts in (None, other.max_prompts)
        return holds_prompts and self.images_per_prompt >= other.images_per_prompt


@dataclass(frozen=True, kw_only=True)
class Record:
    """What ``artefact.json`` says.

    Attributes:
        content: What the digest is of.
        inputs: Addresses of the artefacts that this one was made from.
        code: Digest of each module that determines the content, when it was begun.
        launches: Commands that worked on it, with commits and versions; the first one first.
    """

    version: int
    address: str
    content: Mapping[str, object]
    inputs: tuple[str, ...]
    code: Mapping[str, str]
    launches: tuple[Mapping[str, object], ...]
    extents: tuple[Extent, ...] = ()


@dataclass(frozen=True)
class Artefact:
    """The folder of one artefact."""

    root: Path

    @property
    def address(self) -> str:
        """``KIND/NAME-DIGEST``."""
        return f"{self.root.parent.name}/{self.root.name}"

    @property
    def error_path(self) -> Path:
        """The traceback of the last failure; gone once the work succeeds."""
        return self.root / "error.txt"

    @property
    def exists(self) -> bool:
        """Whether anybody has begun it."""
        return (self.root / _RECORD).is_file()

    def record(self) -> Record | None:
        """The record, None before the first touch; ``UserError`` where it is damaged or old."""
        path = self.root / _RECORD
        values = read_record(path)
        if values is None:
            return None
        refuse_other_version(path, values)
        return build(Record, values, str(path))

    def begin(
        self, content: Mapping[str, object], inputs: Sequence[str], code: Mapping[str, str]
    ) -> None:
        """Write the ``Record``, or add this process to those that worked on the artefact."""
        stored = self.record()
        if stored is None:
            record = Record(
                version=STORE_VERSION, address=self.address, content=content, inputs=tuple(inputs),
                code=code, launches=(this_launch(),),
            )  # fmt: skip
            write_record(self.root / _RECORD, vars(record))
        # The code stays that of the first launch, which made a part of what is there: were it
        # replaced, that part would pass for the work of today's code and never be made again.
        elif this_launch() not in stored.launches:
            self._replace(launches=[*stored.launches, this_launch()])

    def refuse_other(self, content: Mapping[str, object], what: str) -> dict[str, object]:
        """Make sure that a folder of the user's holds nothing, or ``what`` of the same content.

        -> The content as JSON gives it back, for ``begin``; ``UserError`` says what is unlike.
        """
        # Tuples come back from JSON as lists, and would pass for another request.
        plain: dict[str, object] = json.loads(json.dumps(content))
        record = self.record()
        if record is None and self.root.exists() and any(self.root.iterdir()):
            raise UserError(f"{self.root} holds other files; choose another output")
        stored = plain if record is None else record.content
        unlike = [key for key in plain if stored.get(key) != plain[key]]
        if unlike:
            raise UserError(
                f"{self.root} holds {what} of another request (unlike in {', '.join(unlike)}); "
                "nothing was written over, choose another output"
            )
        return plain

    def add_extent(self, extent: Extent) -> None:
        """Note that the artefact is whole for one more part of its suite."""
        stored = self.record()
        assert stored is not None, f"{self.address} was not begun"
        self._replace(extents=[vars(part) for part in dict.fromkeys([*stored.extents, extent])])

    def has(self, extent: Extent) -> bool:
        """Whether this very part of the suite was noted."""
        stored = self.record()
        return stored is not None and extent in stored.extents

    def covers(self, extent: Extent) -> bool:
        """Whether the artefact is whole for a part of its suite."""
        stored = self.record()
        return stored is not None and any(part.covers(extent) for part in stored.extents)

    def _replace(self, **changes: object) -> None:
        stored = read_record(self.root / _RECORD)
        assert stored is not None
        write_record(self.root / _RECORD, {**stored, **changes})

    def note_failure(self, text: str) -> None:
        """Keep the traceback of a failure beside what was done, unless that is why it failed."""
        try:
            write_atomically(self.error_path, lambda partial: partial.write_text(text))
        except StorageError as error:
            log.warning("a traceback is not kept: %s", error)

    @contextmanager
    def held(self, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Hold the artefact for this process; waits while another process works on it.

        ``waiting`` is called every second meanwhile.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        # The kernel drops the lock when its holder dies, so no stale one can remain.
        lock = FileLock(self.root / ".lock")
        while not lock.is_locked:
            try:
                lock.acquire(timeout=_SECONDS_BETWEEN_TRIES)
            except Timeout:
                waiting()
        try:
            yield
        finally:
            lock.release()


@dataclass(frozen=True)
class Store:
    """All artefacts of an output directory."""

    root: Path

    def artefact(self, address: str) -> Artefact:
        """The folder of an address."""
        return Artefact(self.root / address)

    @property
    def cache_dir(self) -> Path:
        """Encoded prompts and images: made again when they are missing."""
        return self.root / "cache"

    def remove_partials(self) -> None:
        """Remove what killed processes were writing; images, of which there are many, are left out.

        Those are looked for by the job that ends their drawing.
        """
        remove_partials(self.root / "grids")
        remove_partials(self.cache_dir)
        for kind in KINDS:
            remove_partials(self.root / kind, "*/.*.partial")

    def discard(self, address: str) -> list[str]:
        """Remove an artefact and all that was made from it; the addresses that are gone."""
        gone = [address]
        records = sorted(path for kind in KINDS for path in self.root.glob(f"{kind}/*/{_RECORD}"))
        for other in (Artefact(path.parent) for path in records):
            # None where it went with one before, of which it was made.
            stored = other.record()
            if stored is not None and address in stored.inputs:
                gone += self.discard(other.address)
        # After what depends on it: killed in between, the same command still finds the rest.
        if self.artefact(address).root.exists():
            shutil.rmtree(self.artefact(address).root)
        return gone


def refuse_other_version(path: Path, values: Mapping[str, object]) -> None:
    """Refuse a file that another version wrote, with a ``UserError``."""
    if values.get("version") != STORE_VERSION:
        raise UserError(
            f"{path} is of store version {values.get('version')}, and this soarbench reads "
            f"{STORE_VERSION}; choose another output_dir, or install the one that wrote it"
        )


def refuse_old(output_dir: Path, grid: str | None) -> None:
    """Refuse a run folder of soarbench 0.1, of any grid or of one, with what to do about it."""
    # Today's store may lie beside an old one, and is then what is meant.
    old = [] if (output_dir / "grids").is_dir() else sorted(output_dir.glob(f"{grid or '*'}/cells"))
    if old:
        raise UserError(
            f"{old[0]} was written by soarbench 0.1, whose cells have other addresses; choose "
            "another output_dir and run the grid again, or report it with soarbench 0.1"
        )
