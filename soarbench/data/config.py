"""What a training set's configuration says; imports no framework."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

from typing_extensions import override

from soarbench.common.errors import ConfigError
from soarbench.common.strict import ADDRESS
from soarbench.data.buckets import Size, bucket_sizes
from soarbench.data.contents import whole_digest

if TYPE_CHECKING:
    from soarbench.data.encoded_rows import ConditionOf, EncodedRows, EncodeImages
    from soarbench.data.records import Record, Scorer


def require_share(key: str, value: float) -> None:
    """Refuse what is no share of something, (0, 1]."""
    if not 0 < value <= 1:
        raise ValueError(f"{key}={value}: must be in (0, 1]")


def require_finite(thresholds: Mapping[str, float]) -> None:
    """Refuse thresholds that keep everything or nothing."""
    for name, least in thresholds.items():
        if not math.isfinite(least):
            raise ValueError(f"thresholds.{name}={least}: must be a finite number")


class TrainingSet(Protocol):
    """An opened set, kept on disk; all of it raises ``UserError`` for what cannot be used."""

    def measure(self) -> None:
        """Look for faults that can be seen before anything is loaded."""

    def captions(self) -> Sequence[str]:
        """Captions that are known before a model is loaded; the others come with ``rows``."""

    def rows(self, encode: EncodeImages, condition: ConditionOf, folder: Path) -> EncodedRows:
        """The rows; ``folder`` keeps what depends on the model's weights."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(abc.ABC):
    """What is trained on; says itself what else is asked about it."""

    #: In addresses; stays when the class is moved or renamed.
    kind: ClassVar[str]

    @property
    @abc.abstractmethod
    def select_by(self) -> tuple[str, ...]:
        """Scores that rows are selected by."""

    @property
    def judged_by(self) -> tuple[str, ...]:
        """Those of them that only a judge can give."""
        return ()

    @property
    def is_named(self) -> bool:
        """Whether it is known which set is meant."""
        return True

    @property
    def keeps_latents(self) -> bool:
        """Whether opened rows hold on to no model."""
        return True

    @property
    def most_rows(self) -> int | None:
        """About how many rows are trained on, at most; None where only reading the set tells."""
        return None

    @property
    def rows_per_shape(self) -> int | None:
        """Rows in a row that share a size, which micro-batches divide; null: all images do."""
        return None

    def with_content(self) -> Self:
        """With the set's content in it, for addresses; ``ConfigError`` where there is no set."""
        return self

    def held_out(self, count: int) -> DataConfig:
        """At least ``count`` rows that training does not see, where there are such; else itself."""
        del count
        return self

    def check_sizes(self, resolution: int, unit: int, largest_image: int) -> None:
        """Refuse, by ``ConfigError``, images of sizes that a model cannot take.

        Args:
            resolution: Side of the square, pixels.
            unit: Pixels of an image that one token of the transformer stands for, along a side.
            largest_image: Pixels of the longest side that it has positions for.
        """
        del resolution, unit, largest_image

    @abc.abstractmethod
    def open(
        self, resolution: int, scorers: Mapping[str, Scorer], judges: object, folder: Path
    ) -> TrainingSet:
        """The set.

        Args:
            resolution: Of the model, pixels.
            scorers: Judges by name, for scores that rows do not come with.
            judges: What identifies them.
            folder: Where what is found out is kept.
        """


@dataclass(frozen=True, kw_only=True)
class CurationConfig:
    """Which part of a set is trained on.

    A score is one that the rows come with, or else the judge of that name gives it, once.

    Attributes:
        thresholds: Least value of each score. Published: aesthetic 6.8.
        rank_by: Scores that are turned into ranks; rows of highest smallest rank are kept.
        keep_fraction: Share of the rows above the thresholds that ``rank_by`` keeps, (0, 1].
    """

    thresholds: Mapping[str, float] = field(default_factory=dict)
    rank_by: tuple[str, ...] = ()
    keep_fraction: float = 1.0

    def __post_init__(self) -> None:
        require_share("keep_fraction", self.keep_fraction)
        require_finite(self.thresholds)
        # Either alone would change nothing, and somebody meant it to.
        if bool(self.rank_by) != (self.keep_fraction < 1):
            raise ValueError(
                f"keep_fraction={self.keep_fraction} with rank_by={list(self.rank_by)}: name the "
                "scores to rank by and keep less than 1, or leave both out"
            )

    @property
    def select_by(self) -> tuple[str, ...]:
        """Every score that is looked at."""
        return tuple(dict.fromkeys((*self.thresholds, *self.rank_by)))


@dataclass(frozen=True, kw_only=True)
class ImageDataConfig(CurationConfig, DataConfig):
    """Images with captions that somebody else has; the forms of them differ in how they lie.

    Attributes:
        path: Where the set is; null until one is named.
        max_unreadable: Missing, damaged or too small images that are listed and left out; one more
            ends the run before it starts.
        max_caption_length: Characters; a longer caption is refused, since encoders would cut it.
        bucket_step: Sides of images are multiples of it, pixels, at about the square's area and as
            close to their own aspect ratio as possible. Null crops every image to the square.
        max_aspect_ratio: Of the longest bucket.
        rows_per_bucket: Consecutive rows of training that share a bucket;
            ``training.micro_batch_size`` divides it. Published: 4 rows a GPU.
        cache_latents: Whether images are encoded once (0.26 MB each at 512 px), or every time.
        scores: JSON Lines of ``data score`` or ``data filter``: the rows that are in it, with the
            scores that it has for them. Null takes the set's own.
        max_rows: Stop reading after this many usable rows above the thresholds; null reads all.
        content: Digest of the set; filled in when a grid is expanded.
    """

    # Not in addresses: where a set lies. Its content is, so a moved set trains nothing again.
    path: str | None = field(default=None, metadata=ADDRESS)
    max_unreadable: int = 0
    max_caption_length: int = 2000
    bucket_step: int | None = None
    max_aspect_ratio: float = 2.0
    rows_per_bucket: int = 4
    # Nor how latents come about: kept and fresh ones are the same numbers, which tests compare.
    cache_latents: bool = field(default=True, metadata=ADDRESS)
    scores: str | None = field(default=None, metadata=ADDRESS)
    max_rows: int | None = None
    content: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("max_unreadable", 0), ("max_caption_length", 1), ("max_rows", 1),
                            ("rows_per_bucket", 1), ("bucket_step", 8),
                            ("max_aspect_ratio", 1)):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ValueError(f"data.{name}={value}: must be finite, at least {least}")
        if not self.cache_latents and self.is_streamed:
            raise ValueError(
                "data.cache_latents=false: a streamed set is read front to back, so its latents "
                "are kept; leave it true"
            )

    @property
    def is_streamed(self) -> bool:
        """Whether rows can only be had front to back."""
        return False

    @property
    def reading(self) -> Mapping[str, object]:
        """Settings that say which of the images and texts in its files are its rows."""
        return {}

    @abc.abstractmethod
    def own_content(self) -> str:
        """Digest of the set without its file of scores; ``ConfigError`` where there is no set."""

    @abc.abstractmethod
    def own_records(self) -> Iterator[Record]:
        """Its rows, with the scores that they come with; ``UserError`` where one is malformed."""

    @property
    @override
    def is_named(self) -> bool:
        return self.path is not None

    @property
    @override
    def keeps_latents(self) -> bool:
        return self.cache_latents

    @property
    @override
    def most_rows(self) -> int | None:
        return self.max_rows

    @property
    @override
    def rows_per_shape(self) -> int | None:
        return None if self.bucket_step is None else self.rows_per_bucket

    @override
    def with_content(self) -> Self:
        if self.path is None:
            return self
        content = self.own_content()
        # Other scores are other rows, and other rows another training.
        if self.scores is not None:
            content = f"{content}+{whole_digest(self.scores_file())}"
        return replace(self, content=content)

    @override
    def check_sizes(self, resolution: int, unit: int, largest_image: int) -> None:
        step = self.bucket_step
        if step is None:
            return
        if step % unit:
            raise ConfigError(
                f"data.bucket_step={step}: must be a multiple of {unit}, the pixels of one token "
                f"(autoencoder and patches); use {-(-step // unit) * unit}"
            )
        if resolution % step:
            raise ConfigError(
                f"data.bucket_step={step}: must divide model.resolution={resolution}, so that the "
                f"square is one of the buckets; use {math.gcd(step, resolution)}"
            )
        side = max(max(size) for size in self.sizes(resolution))
        if side > largest_image:
            raise ConfigError(
                f"data.max_aspect_ratio={self.max_aspect_ratio:g}: gives images of {side} pixels, "
                f"but this model has positions for {largest_image}; lower it"
            )

    def sizes(self, resolution: int) -> list[Size]:
        """The buckets; one square without bucketing."""
        if self.bucket_step is None:
            return [(resolution, resolution)]
        return bucket_sizes(resolution, self.bucket_step, self.max_aspect_ratio)

    def scores_file(self) -> Path:
        """The file of scores; ``ConfigError`` where there is none."""
        assert self.scores is not None
        path = Path(self.scores).expanduser()
        if not path.is_file():
            raise ConfigError(f"data.scores={self.scores}: no such file; make it with `data score`")
        return path

    @override
    def open(
        self, resolution: int, scorers: Mapping[str, Scorer], judges: object, folder: Path
    ) -> TrainingSet:
        # By name, as YAML names a class: what reads a set imports its configuration.
        opened: TrainingSet = resolve_name("soarbench.data.rows:ImageSet")(
            self, resolution, scorers, judges, folder
        )
        return opened

    def _location(self) -> Path:
        assert self.path is not None
        return Path(self.path).expanduser()

    def _read_by(self, reader: str) -> Iterator[Record]:
        # By name, again. The reader's libraries also take seconds to import, which a plan need not.
        records: Iterator[Record] = resolve_name(f"soarbench.data.sources.{reader}")(self)
        return records
