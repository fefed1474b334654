"""What the laboratory configures of its own; imports no framework."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from soarbench.common.files import short_digest
from soarbench.common.strict import ADDRESS
from soarbench.data.config import DataConfig, TrainingSet, require_share
from soarbench.lab.assets import asset_dir, manifest
from soarbench.models.sd3.config import Sd3Config

if TYPE_CHECKING:
    from soarbench.data.records import Scorer

#: What pictures show.
KINDS = ("single_object", "two_object", "counting", "colors", "position", "color_attr", "text")
#: The model path that means the shipped weights.
LABORATORY = "lab"


@dataclass(frozen=True, kw_only=True)
class LabModelConfig(Sd3Config):
    """The laboratory's Stable Diffusion 3, 300 times smaller; ``path`` may name another."""

    name: str = field(default=LABORATORY, metadata=ADDRESS)
    path: str = field(default=LABORATORY, metadata=ADDRESS)
    resolution: int = 64
    max_sequence_length: int = 0
    load_text_encoder_3: bool = False

    @override
    def source(self) -> str:
        """The verified assets, or the directory or hub id of another pipeline."""
        return str(asset_dir("base")) if self.path == LABORATORY else super().source()

    @override
    def base_digest(self) -> str:
        """Of the manifest, where the shipped weights are meant."""
        if self.path != LABORATORY:
            return super().base_digest()
        # It lists every file's digest. The card, outside the assets' folders, changes no number.
        files = sorted(row for row in manifest().items() if "/" in row[0])
        return short_digest(repr(files).encode())


@dataclass(frozen=True, kw_only=True)
class LabDataConfig(DataConfig):
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
            keeps its share.
    """

    kind: ClassVar[str] = "lab"

    num_candidates: int
    select_by: tuple[str, ...] = ()
    keep_fraction: float
    wrong_captions: float = 0.1
    seed: int = 1000
    kinds: tuple[str, ...] | None = None
    # CLIPScore is not comparable between kinds: the best 30 % of all of them together hold no
    # picture of a position.
    within_kinds: bool = False

    def __post_init__(self) -> None:
        require_share("data.keep_fraction", self.keep_fraction)
        if self.num_candidates * self.keep_fraction < 1:
            raise ValueError(
                f"data.num_candidates={self.num_candidates}: keeps no picture; raise it"
            )
        if self.keep_fraction < 1 and not self.select_by:
            raise ValueError(
                f"data.select_by=[] with data.keep_fraction={self.keep_fraction}: name the scores "
                "to select by, or keep all (data.keep_fraction=1)"
            )
        if self.seed < 0:
            raise ValueError(f"data.seed={self.seed}: must be at least 0")
        if not 0 <= self.wrong_captions < 1:
            raise ValueError(f"data.wrong_captions={self.wrong_captions}: must be in [0, 1)")
        if self.kinds is not None and not (self.kinds and set(self.kinds) <= set(KINDS)):
            raise ValueError(f"data.kinds={list(self.kinds)}: choose among {', '.join(KINDS)}")

    @property
    @override
    def judged_by(self) -> tuple[str, ...]:
        return self.select_by

    @property
    @override
    def most_rows(self) -> int:
        return math.ceil(self.num_candidates * self.keep_fraction)

    @override
    def held_out(self, count: int) -> LabDataConfig:
        """Pictures from another seed, just enough of them, curated alike."""
        enough = min(self.num_candidates, math.ceil(count / self.keep_fraction))
        return replace(self, seed=self.seed + 1, num_candidates=enough)

    @override
    def open(
        self, resolution: int, scorers: Mapping[str, Scorer], judges: object, folder: Path
    ) -> TrainingSet:
        del resolution, judges, folder
        # By name, as YAML names a class: a configuration loads neither torch nor the renderer.
        opened: TrainingSet = resolve_name("soarbench.lab.data:LabSet")(self, scorers)
        return opened
