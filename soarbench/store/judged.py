"""The files of one judge's scores: rows, the protocol behind them, and the judge's own summary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from soarbench.common.errors import StoreError
from soarbench.common.files import is_parquet, read_record, records, write_record
from soarbench.evaluation.protocol import fingerprint
from soarbench.evaluation.rows import ScoreRows, read_table
from soarbench.store.artefact import Extent


@dataclass(frozen=True)
class ScoresFolder:
    """Where the scores of one judge lie, in the store or in the output of ``score``."""

    root: Path

    @property
    def rows(self) -> ScoreRows:
        """One row an image."""
        return ScoreRows(self.root)

    @property
    def summary_path(self) -> Path:
        """Where the judge's own summaries lie; ``write_record`` keeps a copy beside it."""
        return self.root / "summary.json"

    def write_protocol(self, facts: Mapping[str, object], judge: Mapping[str, object]) -> None:
        """Keep what stands behind the fingerprint, and the judge's facts, which are not in it."""
        # Libraries may be newer than they were for the first rows; then the two do not compare.
        path = self.root / f"protocol-{fingerprint(facts)}.json"
        if not path.is_file():
            write_record(path, {**facts, "judge": dict(judge)})

    def protocol(self) -> dict[str, object]:
        """What stands behind the first rows; empty where nothing was judged."""
        paths = records(self.root, "protocol-*.json")
        return (read_record(paths[0]) or {}) if paths else {}

    def write_summary(
        self, extent: Extent, numbers: Mapping[str, float], prompt_ids: Sequence[str]
    ) -> None:
        """Keep the judge's summary of a part of the suite, and which prompts that part has."""
        # JSON knows no nan.
        finite = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        others = [part for part in self._summaries() if part["extent"] != vars(extent)]
        # Rows of several parts lie in one table, and do not say which part they were judged for.
        ids = None if extent.max_prompts is None else list(dict.fromkeys(prompt_ids))
        summary = {"extent": vars(extent), "numbers": finite, "prompt_ids": ids}
        write_record(self.summary_path, {"summaries": [*others, summary]})

    def summary(self, extent: Extent) -> dict[str, float]:
        """The judge's summary of a part of the suite; nan where nothing could be scored."""
        numbers = self._of(extent).get("numbers", {})
        return {k: math.nan if v is None else float(v) for k, v in numbers.items()}

    def part(self, extent: Extent | None) -> pa.Table:
        """The rows of a part of the suite, since more may have been judged; None: of all.

        Raises:
            StoreError: They are missing, or nobody knows which they are.
            Damaged: They cannot be read; what could not is moved away.
        """
        remedy = "the command that scored its images makes it again"
        if not self.rows.path.is_file():
            raise StoreError(f"{self.rows.path} is missing; {remedy}")
        rows = read_table(self.rows.path)
        if extent is None:
            return rows
        kept = pc.less(rows["image_index"], extent.images_per_prompt)
        if extent.max_prompts is not None:
            prompt_ids = self._of(extent).get("prompt_ids")
            if prompt_ids is None:
                raise StoreError(
                    f"{self.summary_path} does not say which {extent.max_prompts} prompts were "
                    f"judged; {remedy}"
                )
            kept = pc.and_(kept, pc.is_in(rows["prompt_id"], pa.array(prompt_ids)))
        return rows.filter(kept)

    def _of(self, extent: Extent) -> Mapping[str, Any]:
        """What is kept of a part of the suite; empty where it was not summed up."""
        return next((one for one in self._summaries() if one["extent"] == vars(extent)), {})

    def _summaries(self) -> list[Mapping[str, Any]]:
        summaries = (read_record(self.summary_path) or {}).get("summaries", [])
        assert isinstance(summaries, list)
        return summaries

    def has(self, extent: Extent) -> bool:
        """Whether a part of the suite was summed up, and its rows are there."""
        return is_parquet(self.rows.path) and bool(self._of(extent))
