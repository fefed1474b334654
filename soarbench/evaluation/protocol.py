"""Judges turn stored images into rows, one a (step, evaluator, image), under a fingerprint."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from evaluators.base import Evaluator, Score
from evaluators.samples import SampleFile
from soarbench.common.files import write_atomically, write_json
from soarbench.common.progress import Stage
from soarbench.config.settings import CellConfig, SuiteConfig
from soarbench.evaluation.judging import images_at_a_time, scored
from soarbench.evaluation.suites import PromptItem, PromptSuite, load_suite
from soarbench.store.cell_folder import CellFolder
from soarbench.store.facts import JUDGE

SEED_RULE = "sha256('prompt_id/image_index')[:8] >> 1, torch CPU generator"
_LIBRARIES = (
    "torch", "diffusers", "transformers", "open_clip_torch", "paddleocr", "onnxruntime", "pillow",
)  # fmt: skip
SCHEMA = pa.schema(
    [
        ("cell_id", pa.string()),
        ("task", pa.string()),
        ("method", pa.string()),
        ("seed", pa.int64()),
        ("step", pa.int64()),
        ("evaluator", pa.string()),
        ("suite", pa.string()),
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("image_index", pa.int64()),
        ("sample_id", pa.string()),
        ("value", pa.float64()),
        ("reason", pa.string()),
        ("details", pa.string()),
        ("fingerprint", pa.string()),
    ]
)


def planned_suite(config: SuiteConfig) -> PromptSuite:
    """The prompts of a suite that are evaluated, evenly spaced where only some are."""
    suite = load_suite(config.name, config.prompts)
    available = len(suite.items)
    count = min(config.max_prompts or available, available)
    chosen = tuple(suite.items[index * available // count] for index in range(count))
    return PromptSuite(suite.name, chosen)


def planned_images(config: SuiteConfig) -> list[tuple[PromptItem, int]]:
    """Every (prompt, image index) of a suite, in the order of its rows."""
    indices = range(config.images_per_prompt)
    return [(item, index) for item in planned_suite(config).items for index in indices]


def protocol(
    cell: CellConfig, suite: SuiteConfig, evaluator: Evaluator, scheduler: Mapping[str, object]
) -> dict[str, object]:
    """Everything that makes numbers comparable; the fingerprint is its digest.

    Args:
        cell: Whose images are judged.
        suite: Which images.
        evaluator: The judge.
        scheduler: The sampler's class and shift.
    """
    return {**image_facts(cell, suite, scheduler), **judge_facts(evaluator)}


def image_facts(
    cell: CellConfig, suite: SuiteConfig, scheduler: Mapping[str, object]
) -> dict[str, object]:
    """The protocol's part that says how images were made."""
    return {
        "prompts": planned_suite(suite).sha256,
        "images_per_prompt": suite.images_per_prompt,
        "seed_rule": SEED_RULE,
        "resolution": cell.model.resolution,
        "num_inference_steps": cell.sampling.num_inference_steps,
        "guidance_scale": cell.sampling.guidance_scale,
        **scheduler,
        "dtype": cell.model.dtype,
    }


def judge_facts(evaluator: Evaluator) -> dict[str, object]:
    """The protocol's part that says who judged."""
    return {
        "evaluator": evaluator.name,
        "evaluator_version": evaluator.version,
        "evaluator_settings": dict(evaluator.settings),
        "evaluator_weights": evaluator.weights_hash,
        "libraries": library_versions(),
    }


#: Title, digits, whether a mean of task means, and whose oracle: until judges' own facts are asked.
_KNOWN: Mapping[str, tuple[str, int, bool, tuple[str, ...]]] = {
    "geneval": ("GenEval", 3, True, ()),
    "ocr": ("OCR", 3, False, ()),
    "pickscore": ("PickScore", 3, False, ()),
    "clipscore": ("CLIPScore", 4, False, ()),
    "hpsv21": ("HPSv2.1", 4, False, ()),
    "aesthetic": ("Aesthetic", 3, False, ()),
    "imagereward": ("ImageReward", 3, False, ()),
    "unifiedreward": ("UnifiedReward", 3, False, ()),
    "oracle_geneval": ("GenEval (oracle)", 3, True, ("clipscore",)),
    "oracle_ocr": ("OCR (oracle)", 3, False, ()),
    "oracle_aesthetic": ("Aesthetic (oracle)", 3, False, ("aesthetic",)),
}


def number_facts(judge: str, evaluator: Evaluator) -> dict[str, object]:
    """What a report must know about a judge's number; see ``soarbench.store.facts``."""
    title, decimals, is_macro_mean, oracle_of = _KNOWN.get(judge, (judge, 3, False, ()))
    return {
        "title": title,
        "unit": evaluator.unit,
        "decimals": decimals,
        "value_range": list(evaluator.value_range),
        "higher_is_better": evaluator.higher_is_better,
        "is_macro_mean": is_macro_mean,
        "is_oracle": judge.startswith("oracle_"),
        "oracle_of": list(oracle_of),
    }


def fingerprint(facts: Mapping[str, object]) -> str:
    """Digest of a protocol."""
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def library_versions() -> dict[str, str]:
    """Versions of the libraries that numbers may depend on, for the fingerprint."""
    return {name: _installed(name) for name in _LIBRARIES}


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def score_part(
    cell: CellConfig,
    folder: CellFolder,
    step: int,
    suite: SuiteConfig,
    judge: str,
    evaluator: Evaluator,
    scheduler: Mapping[str, object],
    progress: Stage,
) -> None:
    """Score the images of one suite at one step by one judge, unless that is done.

    Args:
        cell: Whose images.
        folder: Its files.
        step: Of training.
        suite: Which images.
        judge: The evaluator's name in rows.
        evaluator: The judge.
        scheduler: See ``protocol``.
        progress: Counts images.
    """
    plan = planned_images(suite)
    part, summary = folder.part(step, suite.name, judge), folder.summary(step, suite.name, judge)
    if part.is_file() and summary.is_file():
        progress.skip(len(plan))
        return
    files, scores = _files(folder, step, plan), list[Score]()
    for _, found in scored(evaluator, files, images_at_a_time(cell.model.resolution**2)):
        scores += found
        progress.advance(len(found))
    # Aggregation does not read pixels.
    blank = Image.new("RGB", (1, 1))
    samples = [file.with_image(blank) for file in files]
    facts = protocol(cell, suite, evaluator, scheduler)
    numbers = evaluator.aggregate(samples, scores)
    stored = {**facts, JUDGE: number_facts(judge, evaluator)}
    write_json(summary, {"aggregate": numbers, "protocol": stored})
    common: dict[str, object] = {
        "cell_id": cell.cell_id,
        "task": cell.task_name,
        "method": cell.method_name,
        "seed": cell.seed,
        "step": step,
        "evaluator": judge,
        "suite": suite.name,
        "fingerprint": fingerprint(facts),
    }
    rows = [
        common | _row(item, index, score) for (item, index), score in zip(plan, scores, strict=True)
    ]
    table = pa.Table.from_pylist(rows, SCHEMA)
    write_atomically(part, lambda partial: pq.write_table(table, partial))


def _files(
    folder: CellFolder, step: int, plan: Sequence[tuple[PromptItem, int]]
) -> list[SampleFile]:
    return [
        SampleFile(
            sample_id=f"{item.prompt_id}/{index:04d}",
            prompt_id=item.prompt_id,
            prompt=item.prompt,
            path=folder.image(step, item.prompt_id, index),
            metadata=item.metadata,
        )
        for item, index in plan
    ]


def _row(item: PromptItem, index: int, score: Score) -> dict[str, object]:
    return {
        "prompt_id": item.prompt_id,
        "prompt": item.prompt,
        "image_index": index,
        "sample_id": score.sample_id,
        "value": math.nan if score.reason is not None else float(score.value),
        "reason": score.reason,
        "details": json.dumps(dict(score.details)),
    }


def parts(cell: CellConfig) -> Iterator[tuple[int, SuiteConfig, str]]:
    """Every (step, suite, judge) of a cell, in the order of its rows."""
    for step in cell.steps:
        for suite in cell.suites.values():
            for judge in suite.evaluators:
                yield step, suite, judge


def merge_parts(cell: CellConfig, folder: CellFolder) -> None:
    """Make ``scores.parquet`` of the parts; it exists exactly when every planned row does."""
    found: list[Path] = [folder.part(step, suite.name, judge) for step, suite, judge in parts(cell)]
    table = pa.concat_tables([pq.read_table(path, schema=SCHEMA) for path in found])
    planned = sum(len(planned_images(suite)) for _, suite, _ in parts(cell))
    if table.num_rows != planned:
        raise RuntimeError(
            f"{cell.cell_id}: {table.num_rows} score rows where {planned} are planned"
        )
    write_atomically(folder.scores_table, lambda partial: pq.write_table(table, partial))
