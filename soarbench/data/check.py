"""``python -m soarbench data check``: everything that is wrong with a set, before it is used."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from evaluators.images import ImageError
from soarbench.common.errors import UserError
from soarbench.common.files import make_writable
from soarbench.common.progress import Pace
from soarbench.data.buckets import is_smaller, nearest_bucket
from soarbench.data.config import ImageDataConfig
from soarbench.data.prompts import PromptSuite, normalised
from soarbench.data.records import Record, caption_fault
from soarbench.data.sources.jsonl import read_lines, write_lines
from soarbench.data.sources.source import records_of

#: Kinds of findings, in the order of the table, and what each means.
KINDS = {
    "caption": "captions that cannot be trained on",
    "image": "images that are missing, damaged or not what the set says",
    "small": "images smaller than they are trained at",
    "overlap": "captions that an evaluation asks for",
    "same_pixels": "images with the pixels of another",
    "same_caption": "captions that another row has too",
    "near": "images that look like another",
}
#: Bits of 64 in which two images that look alike may differ.
NEAR_BITS = 4
#: One more, so that some band has no differing bit: only images that agree in one are compared, and
#: not every pair of a set.
_BANDS = NEAR_BITS + 1


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something wrong with a row."""

    kind: str
    place: str
    detail: str


@dataclass
class SetCheck:
    """Looks at rows one after the other and remembers what it needs to know of earlier ones.

    ``suites`` must not be trained on; ``with_near`` compares what merely looks alike, too.
    """

    data: ImageDataConfig
    resolution: int
    suites: Sequence[PromptSuite]
    with_near: bool = False
    num_rows: int = 0
    _pixels: dict[bytes, str] = field(default_factory=dict)
    _captions: dict[str, str] = field(default_factory=dict)
    _looks: dict[tuple[int, int], list[tuple[int, str]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def findings(self) -> Iterator[Finding]:
        """All there is to say; ``UserError`` where the set cannot be read at all."""
        held_out = {normalised(item.prompt): s.name for s in self.suites for item in s.items}
        for record in records_of(self.data):
            self.num_rows += 1
            suite = held_out.get(normalised(record.caption))
            for kind, detail in (*self._of_caption(record, suite), *self._of_image(record)):
                yield Finding(kind=kind, place=record.place, detail=detail)

    def _of_caption(self, record: Record, suite: str | None) -> Iterator[tuple[str, str]]:
        fault = caption_fault(record, self.data.max_caption_length)
        if fault is not None:
            yield "caption", fault
        # Public code trained on prompts that it was judged by (flow_grpo#4).
        if suite is not None:
            yield "overlap", f"a prompt of suite {suite!r}"
        first = self._captions.setdefault(record.caption, record.place)
        if first != record.place:
            yield "same_caption", f"as {first}"

    def _of_image(self, record: Record) -> Iterator[tuple[str, str]]:
        try:
            size, image = record.measured(), record.image()
        except ImageError as error:
            yield "image", str(error)
            return
        sizes = self.data.sizes(self.resolution)
        bucket = sizes[nearest_bucket(size, sizes)]
        if is_smaller(size, bucket):
            yield "small", f"{size[0]} x {size[1]}, trained at {bucket[0]} x {bucket[1]}"
        first = self._pixels.setdefault(pixel_digest(image), record.place)
        if first != record.place:
            yield "same_pixels", f"as {first}"
        elif self.with_near and (twin := self._near(look(image), record.place)) is not None:
            yield "near", f"like {twin}"

    def _near(self, bits: int, place: str) -> str | None:
        """The place of an earlier image that looks alike."""
        width = -(-64 // _BANDS)
        twins = []
        for band in range(_BANDS):
            known = self._looks[band, bits >> (band * width) & ((1 << width) - 1)]
            twins += [where for other, where in known if (bits ^ other).bit_count() <= NEAR_BITS]
            known.append((bits, place))
        return twins[0] if twins else None


def pixel_digest(image: Image.Image) -> bytes:
    """The sha256 of an image's size and pixels, whatever file it came from."""
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest()


def look(image: Image.Image) -> int:
    """64 bits that stay nearly the same when an image is scaled, recoded or slightly recoloured."""
    # The difference hash: whether each of 8 x 8 areas is brighter than its right neighbour.
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX))
    return int.from_bytes(np.packbits(grey[:, :-1] > grey[:, 1:]).tobytes(), "big")


def check_set(check: SetCheck, output: Path, skipped: Iterable[str], console: Console) -> int:
    """Write findings as JSON Lines and a table. -> 0, or 1 when there are some.

    ``skipped`` are suites whose prompts are not known; ``UserError`` where the set has no rows, or
    ``output`` is a file of the user's.
    """

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    # The set itself, named for the output, was written over.
    if output.exists() and not _is_findings(output):
        raise UserError(
            f"output={output} exists already and holds no findings; choose another output"
        )
    make_writable(output.parent, "output")
    pace = Pace("checked images", None, say)
    findings = []
    before = 0
    # Not a bar of known length: how many rows a set has is known when it is read.
    for finding in check.findings():
        findings.append(finding)
        pace.advance(check.num_rows - before)
        before = check.num_rows
    if check.num_rows == 0:
        raise UserError(f"data.path={check.data.path}: holds no rows")
    write_lines(output, map(vars, findings))
    console.print(_table(check, Counter(finding.kind for finding in findings)))
    for suite in skipped:
        say(f"not compared with suite {suite!r}: give suites.{suite}.prompts=FILE")
    say(f"wrote {output}" if findings else "nothing is wrong with it")
    return 1 if findings else 0


def _is_findings(path: Path) -> bool:
    """Whether an earlier check wrote a file, to judge by its first line."""
    names = {one.name for one in fields(Finding)}
    try:
        first = itertools.islice(read_lines(path), 1)
        return path.is_file() and all(row.keys() == names for _, row in first)
    except UserError:
        return False


def _table(check: SetCheck, counts: Counter[str]) -> Table:
    table = Table(title=f"{check.num_rows} rows of {check.data.path}")
    table.add_column("rows", justify="right")
    table.add_column("finding")
    for kind, meaning in KINDS.items():
        if kind != "near" or check.with_near:
            table.add_row(str(counts[kind]), meaning)
    return table
