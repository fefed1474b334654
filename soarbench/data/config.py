"""What a training set's configuration says; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass, field

from baselines.config import LATER

#: What the laboratory's pictures show.
KINDS = ("single_object", "two_object", "counting", "colors", "position", "color_attr", "text")


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
    """

    num_candidates: int
    select_by: tuple[str, ...]
    keep_fraction: float
    wrong_captions: float = 0.1
    seed: int = 1000
    kinds: tuple[str, ...] | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        if not 0 < self.keep_fraction <= 1:
            raise ValueError(f"data.keep_fraction={self.keep_fraction}: must be in (0, 1]")
        if self.num_candidates * self.keep_fraction < 1:
            raise ValueError(
                f"data.num_candidates={self.num_candidates}: keeps no picture; raise it"
            )
        if not 0 <= self.wrong_captions < 1:
            raise ValueError(f"data.wrong_captions={self.wrong_captions}: must be in [0, 1)")
        if self.kinds is not None and not (self.kinds and set(self.kinds) <= set(KINDS)):
            raise ValueError(f"data.kinds={list(self.kinds)}: choose among {', '.join(KINDS)}")
