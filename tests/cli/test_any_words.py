"""Whatever is typed: an exit code, and at most one line that says what is wrong."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from soarbench.cli import app
from soarbench.cli.app import main
from soarbench.cli.commands import COMMANDS
from tests.cli.test_words import LINES

#: What carries a command out, once its words are read and found good.
WORK = (
    "soarbench.cli.run.run_whole", "soarbench.cli.run.run_grid", "soarbench.cli.run._submit",
    "soarbench.cli.evaluate.evaluate", "soarbench.cli.plan.Planner", "soarbench.cli.fetch.fetch",
    "soarbench.cli.ui.subprocess.run",
)  # fmt: skip
#: Whose words alone are read: of some the work begins with the first line.
READ_ONLY = ("bench", "soak", "lab", "doctor", "fetch", "evaluate", "plan", "score", "ui", "sync")

KEYS = (
    "grid", "task", "method", "model", "budget", "suite", "judge", "data", "seeds", "device",
    "output", "output_dir", "results_dir", "conf_dir", "grid.name", "grid.baseline", "budget.steps",
    "budget.name", "model.resolution", "model.path", "model.adapter", "sampling.guidance_scale",
    "sampling.num_inference_steps", "method.aux_weight", "method.num_points",
    "method.num_inference_steps", "optim.learning_rate", "lora", "reward", "reward.aesthetic",
    "data.path", "data.thresholds", "data.max_rows", "tracking.uri", "margin", "port", "minutes",
    "images", "input", "thresholds.a", "suites.ocr.prompts", "judge.ocr.device", "num_images",
    "images_per_prompt", "launcher.num_processes", "figure_formats", "store.keep_snapshots", "x",
)  # fmt: skip
VALUES = (
    "0", "-1", "1", "nan", "inf", "1e999", "9" * 400, "9" * 5000, "null", "true", "''", "[]", "{}",
    "[0,1]", "a,b", "{a:nan}", "../x", "/", "/dev/null", "/proc/self/mem", "~", "~nobody/x", ".",
    "soar", "sft", "lab", "reward_specific", "quick", "aesthetic", "cpu", "cuda:99", "os.system",
    "http://u:hush@[::1", "sqlite://", "http://h:99999", "x" * 5000, "a\0b", "\udcff", "${x}",
    "[" * 200, "é", "a b", "'", '"', "\\", "a=b", "A" * 100_000, "0x10", "1_0", "٣", "{a:{b:1}}",
)  # fmt: skip


class Reached(BaseException):
    """The words are good: what comes next would take time."""


def _reached(*_arguments: object, **_options: object) -> None:
    raise Reached


@pytest.fixture(autouse=True)
def _nothing_is_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in WORK:
        monkeypatch.setattr(name, _reached)
    function_of = app.function_of

    def without_work(name: str) -> object:
        function = function_of(name)
        if name.split()[0] not in READ_ONLY:
            return function

        # The parameters are read for the command's own options.
        @functools.wraps(function)
        def stopped(*_arguments: object, **_options: object) -> int:
            raise Reached

        return stopped

    monkeypatch.setattr(app, "function_of", without_work)


def _mutated(word: str) -> st.SearchStrategy[str]:
    """A word with a part left out, doubled, or replaced."""
    places = st.integers(0, len(word))
    pairs = st.tuples(places, places, st.sampled_from(("", "=", ".", "x", "[", "\0", " ", "-")))
    return pairs.map(lambda cut: word[: cut[0]] + cut[2] + word[cut[1] :])


PAIRS = st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)).map("=".join)
REAL = st.sampled_from(sorted({word for line in LINES.values() for word in line}))
WORDS = st.one_of(
    PAIRS,
    REAL,
    REAL.flatmap(_mutated),
    PAIRS.flatmap(lambda word: _mutated(word[:200])),
    st.sampled_from(("--dry-run", "--json", "--help", "-x", "--", "=", "", "help", "soar", "sft")),
    st.text(max_size=20),
)
COMMAND = st.one_of(st.sampled_from(sorted(COMMANDS)), st.sampled_from(sorted(COMMANDS)), WORDS)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    command = draw(COMMAND)
    real = LINES.get(command, []) if draw(st.booleans()) else []
    return [*command.split(" "), *real, *draw(st.lists(WORDS, max_size=3))]


@contextlib.contextmanager
def _unrun() -> Iterator[None]:
    with contextlib.suppress(Reached):
        yield


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(command_lines())
def test_whatever_is_typed_is_answered_in_one_line(words: list[str]) -> None:
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _unrun():
        code = main(words)
    text = err.getvalue()
    assert code in (0, 1, 2)
    if code == 2 and words:
        assert text.startswith("soarbench: error: ")
        assert text.count("\n") == 1
        assert len(text) <= 301
        text.encode()
    assert "hush" not in text
    assert "Traceback" not in text + out.getvalue()
