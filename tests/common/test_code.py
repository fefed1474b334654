"""Digests of code: what changes what it does changes them, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from soarbench.common.code import _digest, changed, code_of, digests

BODY = '''"""Module."""

def loss(x):
    """Squares."""
    return x**2
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "a_users_loss.py"
    path.write_text(BODY)
    return path


def rewritten(module: Path, text: str) -> list[str]:
    before = digests(["a_users_loss"])
    module.write_text(text)
    _digest.cache_clear()
    return changed(before)


@pytest.mark.parametrize(
    "text",
    [
        BODY.replace("Squares.", "The square."),
        BODY.replace("    return", "    # why\n    return"),
        BODY.replace("x**2", "(x ** 2)"),
        BODY.replace('"""Module."""\n', ""),
    ],
)
def test_words_and_layout_change_nothing(module: Path, text: str) -> None:
    assert rewritten(module, text) == []


@pytest.mark.parametrize("text", [BODY.replace("**2", "**3"), BODY + "\nSCALE = 2\n"])
def test_code_that_does_something_else_is_named(module: Path, text: str) -> None:
    assert rewritten(module, text) == ["a_users_loss"]


def test_a_module_that_is_gone_is_named(module: Path) -> None:
    before = digests(["a_users_loss"])
    module.unlink()
    sys.path_importer_cache.clear()
    assert changed(before) == ["a_users_loss"]


def test_nothing_is_imported(module: Path) -> None:
    assert digests([module.stem])
    assert "a_users_loss" not in sys.modules


def test_a_reward_function_counts_by_its_dotted_path_and_a_named_reward_does_not() -> None:
    assert code_of("my_package.rewards.dullness", "my_package.rewards:other", "aesthetic") == (
        "my_package.rewards",
    )
