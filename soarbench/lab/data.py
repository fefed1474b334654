"""Curated training rows of the laboratory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from evaluators.base import Sample
from soarbench.common.files import parts_digest
from soarbench.common.strict import address_content
from soarbench.data.curation import Entry, read_entries, write_entries
from soarbench.data.encoded_rows import ConditionOf, EncodedRows, EncodeImages
from soarbench.data.records import Scorer
from soarbench.data.rows import latent_key, stored_rows
from soarbench.data.select import best_share_of_groups
from soarbench.lab.assets import weights_hash
from soarbench.lab.config import LabDataConfig
from soarbench.lab.judges import picture
from soarbench.lab.world.grammar import demands, training_sample
from soarbench.models.tensor_store import TensorStore

log = logging.getLogger(__name__)


def draw_candidates(config: LabDataConfig) -> list[Sample]:
    """Draw the candidates; ``sample_id`` is the row number, ``prompt`` the caption."""
    candidates = []
    for index in range(config.num_candidates):
        # A generator each: the first thousand of two thousand are the same thousand.
        rng = np.random.default_rng((config.seed, index))
        sample = training_sample(rng, config.wrong_captions, config.kinds)
        candidates.append(picture(str(index), sample.caption, sample.scene))
    return candidates


def _select(
    config: LabDataConfig, scorers: Mapping[str, Scorer], name: str
) -> list[tuple[Entry, Image.Image]]:
    """The kept candidates; ``name`` starts their keys."""
    candidates = draw_candidates(config)
    scores = {judge: list(scorers[judge](candidates)) for judge in config.select_by}
    groups = [""] * len(candidates)
    if config.within_kinds:
        groups = [str(demands(sample.prompt).get("tag", "text")) for sample in candidates]
    kept = []
    for place in best_share_of_groups(scores, groups, config.keep_fraction):
        sample = candidates[place]
        entry = Entry(
            key=f"{name} {place}",
            place=f"candidate {place}",
            caption=sample.prompt,
            bucket=sample.image.size,
            scores={judge: values[place] for judge, values in scores.items()},
        )
        kept.append((entry, sample.image))
    return kept


class LabSet:
    """The curated pictures; ``scorers`` are those that ``config.select_by`` names."""

    def __init__(self, config: LabDataConfig, scorers: Mapping[str, Scorer]) -> None:
        self.config = config
        self.scorers = scorers

    def measure(self) -> None:
        """Nothing: pictures are drawn without faults."""

    def captions(self) -> list[str]:
        """None: pictures are drawn when rows are asked for."""
        return []

    def rows(self, encode: EncodeImages, condition: ConditionOf, folder: Path) -> EncodedRows:
        """From the cache, if the same configuration and weights made them before."""
        # The base's as well: its autoencoder makes the latents.
        weights = [weights_hash(name) for name in ("base", "clip", "aesthetic")]
        name = parts_digest(address_content(self.config), weights)
        place = folder / f"lab-{name}"
        store = TensorStore(place)
        path = place / "rows.jsonl"
        entries = read_entries(path)
        if entries is None or any(latent_key(entry) not in store for entry in entries):
            kept, images = zip(*_select(self.config, self.scorers, name), strict=True)
            store.add([latent_key(entry) for entry in kept], {"x0": encode(images)})
            # Last, since the list says that all is there.
            write_entries(path, kept)
            entries = list(kept)
        for judge in self.config.select_by:
            least = min(entry.scores[judge] for entry in entries)
            log.info("%s of the %d training pictures: at least %.3f", judge, len(entries), least)
        return stored_rows(
            entries, store, condition, columns=lambda prompt: {"metadata": demands(prompt)}
        )
