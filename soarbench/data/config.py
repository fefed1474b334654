"""What a training set's configuration says; imports no framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from soarbench.common.strict import ADDRESS

#: What the laboratory's pictures show.
KINDS = ("single_object", "two_object", "counting", "colors", "position", "color_attr", "text")


def _require_share(key: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{key}={value}: must be in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class LabDataConfig:
    """Curated pictures of the drawn world: fresh ones are drawn, scored, and the best kept.

    Attributes:
        num_candidates: Pictures drawn from the broad distribution of the pre-training data.
        select_by: Names of the learned scores that must be high. Every one is turned into a rank in
            0..1, and the pictures of highest smallest rank are kept.
        keep_fraction: Share of candidates kept, (0, 1]. Published: aesthetic score of 6.8 or more.
        wrong_captions: Share of candidates whose caption describes another picture.
        seed: Of the candidates; other than the laboratory's own pre-training seed.
        kinds: What candidates show: some of single_object, two_object, counting, colors, position,
            color_attr and text; null: all of them. A reward may judge some kinds alone.
        within_kinds: Whether a candidate is ranked among those of its own kind, so that every kind
            keeps its share. CLIPScore is not comparable between kinds: the best 30 % of all of them
            together hold no picture of a position.
    """

    num_candidates: int
    select_by: tuple[str, ...]
    keep_fraction: float
    wrong_captions: float = 0.1
    seed: int = 1000
    kinds: tuple[str, ...] | None = None
    within_kinds: bool = False

    def __post_init__(self) -> None:
        _require_share("data.keep_fraction", self.keep_fraction)
        if self.num_candidates * self.keep_fraction < 1:
            raise ValueError(
                f"data.num_candidates={self.num_candidates}: keeps no picture; raise it"
            )
        if not 0 <= self.wrong_captions < 1:
            raise ValueError(f"data.wrong_captions={self.wrong_captions}: must be in [0, 1)")
        if self.kinds is not None and not (self.kinds and set(self.kinds) <= set(KINDS)):
            raise ValueError(f"data.kinds={list(self.kinds)}: choose among {', '.join(KINDS)}")


@dataclass(frozen=True, kw_only=True)
class CurationConfig:
    """Which part of a set is trained on.

    A score is one that the rows come with, or else the judge of that name gives it, once.

    Attributes:
        thresholds: Least value of each score. Published: aesthetic 6.8.
        rank_by: Scores that must be high compared with the rest of the set: every one is turned
            into a rank in 0..1, and the rows of highest smallest rank are kept.
        keep_fraction: Share of the rows above the thresholds that ``rank_by`` keeps, (0, 1].
    """

    thresholds: Mapping[str, float] = field(default_factory=dict)
    rank_by: tuple[str, ...] = ()
    keep_fraction: float = 1.0

    def __post_init__(self) -> None:
        _require_share("keep_fraction", self.keep_fraction)
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
class ImageDataConfig(CurationConfig):
    """Images with captions that somebody else has; the forms of them differ in how they lie.

    Attributes:
        path: Where the set is; null until one is named.
        max_unreadable: Images that may be missing, damaged or smaller than they are trained at.
            They are listed and left out; one more ends the run before it starts.
        max_caption_length: Characters; a longer caption is refused, since encoders would cut it.
        bucket_step: Sides of images are multiples of it, pixels, at the area of
            ``model.resolution`` squared, as close to their own aspect ratio as possible. Null crops
            every image to the square.
        max_aspect_ratio: Of the longest bucket.
        rows_per_bucket: Consecutive rows of training that share a bucket;
            ``training.micro_batch_size`` divides it. Published: 4 rows a GPU.
        cache_latents: Whether images are encoded once and kept on disk (0.26 MB each at 512 px), or
            anew every time they are trained on.
        scores: JSON Lines of ``data score`` or ``data filter``: the rows that are in it, with the
            scores that it has for them. Null takes the set's own.
        max_rows: Stop reading after this many usable rows above the thresholds; null reads all.
        content: Digest of the set; filled in when a grid is expanded.
    """

    path: str | None = field(default=None, metadata=ADDRESS)
    max_unreadable: int = 0
    max_caption_length: int = 2000
    bucket_step: int | None = None
    max_aspect_ratio: float = 2.0
    rows_per_bucket: int = 4
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
            if value is not None and value < least:
                raise ValueError(f"data.{name}={value}: must be at least {least}")
        if not self.cache_latents and self.is_streamed:
            raise ValueError(
                "data.cache_latents=false: a streamed set is read front to back, so its latents "
                "are kept; leave it true"
            )

    @property
    def is_streamed(self) -> bool:
        """Whether rows can only be had front to back."""
        return False


@dataclass(frozen=True, kw_only=True)
class JsonlDataConfig(ImageDataConfig):
    """A JSON Lines file: ``caption`` with ``image`` or ``md5``; ``width``, ``height``, ``scores``.

    Attributes:
        image_dir: Folder that images lie in: as ``image`` says, or as ``MD5.SUFFIX`` in it or in a
            folder named after the first two digits. Null is the file's own folder.
    """

    image_dir: str | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetsDataConfig(ImageDataConfig):
    """A set for Hugging Face ``datasets``: parquet or image folder, saved directory, or hub id.

    Attributes:
        revision: Of a hub id; null takes the default branch.
        subset: Name of the hub set's configuration.
        split: Of the set.
        streaming: Whether the set is read front to back and never stored, for sets larger than a
            disk.
        image_column: Holds the images.
        caption_column: Holds the captions.
        score_columns: Score to the column that holds it.
    """

    revision: str | None = None
    subset: str | None = None
    split: str = "train"
    streaming: bool = False
    image_column: str = "image"
    caption_column: str = "text"
    score_columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_streamed(self) -> bool:
        """Whether rows can only be had front to back."""
        return self.streaming


@dataclass(frozen=True, kw_only=True)
class WebDatasetConfig(ImageDataConfig):
    """WebDataset tar shards, read front to back and never unpacked: samples of an image and a text.

    ``path`` is a folder of shards, or a pattern such as ``/data/part-*.tar``. A sample's caption is
    its ``.txt`` file, or ``caption_key`` of its ``.json`` file, which may also hold ``scores``.

    Attributes:
        caption_key: Of the ``.json`` file.
    """

    caption_key: str = "caption"

    @property
    def is_streamed(self) -> bool:
        """Whether rows can only be had front to back."""
        return True


DataConfig = LabDataConfig | JsonlDataConfig | DatasetsDataConfig | WebDatasetConfig
