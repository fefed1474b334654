"""Galleries of a page: images of the same prompts and noise with their scores, sorted by gain."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence

from soarbench.config.stages import first_stage
from soarbench.report.numbers.names import BASE, method_title, step_title
from soarbench.report.numbers.samples import Sample, Samples

#: Of all samples of a page, before base64 makes them a third larger.
MOST_SAMPLE_BYTES = 6_000_000


def samples(
    parts: Sequence[Samples], baselines: Mapping[str, str]
) -> tuple[list[dict[str, object]], str]:
    """Galleries of the tasks that have images, and a note.

    Only the last step where all would be too much; ``baselines`` by task.
    """
    size = sum(len(one.jpeg) for part in parts for one in part.samples.values())
    # The page is one file that is mailed around and opened from disk.
    is_whole = size <= MOST_SAMPLE_BYTES
    note = "" if is_whole else "The page holds the last step alone, to stay small."
    shown = [part for part in parts if part.samples]
    return [_gallery(part, baselines[part.task], is_whole=is_whole) for part in shown], note


def _gallery(part: Samples, baseline: str, *, is_whole: bool) -> dict[str, object]:
    steps = part.steps if is_whole else part.steps[-1:]
    ordered = [one for _, one in sorted(part.samples.items())]
    shown = [one for one in ordered if one.step in steps or one.method == BASE]
    present = {one.method for one in shown}
    titles = {name: method_title(name, part.titles) for name in part.methods if name in present}
    images: dict[tuple[str, str], list[Mapping[str, object]]] = {}
    for one in shown:
        image = _image(one, part, titles[one.method])
        images.setdefault((one.method, one.prompt_id), []).append(image)
    rivals = [name for name in titles if name not in (BASE, baseline)]
    rows = []
    for key in _by_gain(part, rivals[:1], baseline):
        own = [{"method": name, "images": images.get((name, key), [])} for name in titles]
        rows.append({"prompt": part.prompts[key], "cells": own})
    # All of them are of the lowest seed, as the sheets are.
    seeds = sorted({one.seed for one in shown if one.method != BASE})
    seed = f", training seed {seeds[0]}" if seeds else ""
    return {
        "title": f"Task: {part.task}{seed}",
        "metric": part.facts.title,
        "decimals": part.facts.decimals,
        "sign": part.facts.sign,
        "baseline": baseline if baseline in titles else "",
        "rivals": rivals if baseline in titles else [],
        "titles": titles,
        "steps": steps,
        "steps_title": "Step of the last stage" if any(map(first_stage, titles)) else "Step",
        "rows": rows,
    }


def _by_gain(part: Samples, rivals: Sequence[str], baseline: str) -> list[str]:
    """Prompts, the largest gain of a rival on the baseline first; in order without both scores."""
    last = {name: max(part.steps_of(name), default=0) for name in (*rivals, baseline)}

    def loss(prompt_id: str) -> float:
        pair = [part.samples.get((name, last[name], prompt_id)) for name in (*rivals, baseline)]
        scores = [one.score for one in pair if one is not None and one.score is not None]
        return part.facts.sign * (scores[1] - scores[0]) if len(scores) == 2 else math.inf

    return sorted(part.prompts, key=loss)


def _image(sample: Sample, part: Samples, method: str) -> Mapping[str, object]:
    title = f"{method}, {step_title(sample.method, sample.step)}"
    score = "" if sample.score is None else f"{sample.score:.{part.facts.decimals}f}"
    return {
        "source": f"data:image/jpeg;base64,{base64.b64encode(sample.jpeg).decode()}",
        "alt": f"{title}: {part.prompts[sample.prompt_id]}",
        "step": sample.step,
        "score": score,
        # The base has one step, and stays beside whichever is chosen.
        "always": "yes" if sample.method == BASE else "no",
    }
