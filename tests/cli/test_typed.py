"""Words in another grammar than ours."""

from __future__ import annotations

import pytest

from soarbench.cli.typed import as_words, with_keys
from soarbench.common.errors import UserError

FLAGS = ("--dry-run", "--cfg")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--grid", "X", "--dry-run"], ["grid=X", "--dry-run"]),
        (["--grid=X", "a=b"], ["grid=X", "a=b"]),
        (["--output-dir", "a/b-c"], ["output_dir=a/b-c"]),
        (["-seeds=0,1"], ["seeds=0,1"]),
        (["--cfg", "job", "grid=X"], ["--cfg", "grid=X"]),
        (["soar", "sft", "--metric", "ocr"], ["soar", "sft", "metric=ocr"]),
        (["x=--y"], ["x=--y"]),
    ],
)
def test_what_is_typed_as_elsewhere_is_understood(typed: list[str], words: list[str]) -> None:
    assert as_words(typed, FLAGS, "run") == words


@pytest.mark.parametrize("typed", [["--bogus"], ["--bogus", "a=b"], ["--bogus", "--cfg"], ["--"]])
def test_a_flag_that_there_is_not_is_refused(typed: list[str]) -> None:
    with pytest.raises(UserError, match=r"unrecognized arguments: --.*run --help"):
        as_words(typed, FLAGS, "run")


def test_a_grid_needs_no_key_and_other_choices_do() -> None:
    assert with_keys(["tuning", "a=b"], ["grid", "budget"]) == ["grid=tuning", "a=b"]
    assert with_keys(["nothing"], ["grid", "budget"]) == ["nothing"]
    with pytest.raises(UserError, match="'soar' needs its key: write method=soar"):
        with_keys(["soar"], ["grid", "method"])
