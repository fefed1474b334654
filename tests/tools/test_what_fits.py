"""The table of what fits where says what plan counts, and stands in the documentation."""

import re
from types import SimpleNamespace

import pytest

from soarbench.planning.demand import gpus
from tools.docs import DOCS
from tools.what_fits import CARDS, MODELS, cell


@pytest.mark.parametrize(
    ("card", "seconds", "text"),
    [
        ("rtx4090-24gb", 3.6, "-"),
        ("l40s-48gb", 3.6, "30.0 GB, 5 h"),
        ("h100-80gb", 0.36, "30.0 GB, <1 h"),
    ],
)
def test_a_cell_is_what_plan_counts(card: str, seconds: float, text: str) -> None:
    counted = SimpleNamespace(peak_gb=30.0, time=SimpleNamespace(seconds=seconds))
    planner = SimpleNamespace(chosen=lambda demand, _: demand, plan=lambda *_: counted)
    request = SimpleNamespace(demands={"sft": None}, steps={"sft": 5000})
    assert cell(planner, request, "sft", gpus()[card]) == text


def test_the_documentation_has_every_row() -> None:
    text = (DOCS / "howto/models.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| `(\w+)`(?: \| [^|]+){3} \|$", text, re.M)
    methods = ("sft", "soar", "flow_grpo")
    assert rows == [(model, str(px), name) for model, px in MODELS for name in methods]
    assert " | ".join(f"`gpu={card}`" for card in CARDS) in text
