"""What the hub refuses becomes one line that says what to do."""

from __future__ import annotations

from collections.abc import Callable

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from soarbench.common.errors import UserError
from soarbench.models.hub import hub_snapshot, is_directory
from soarbench.models.sd3.config import Sd3Config

MODEL = Sd3Config(name="x", path="org/name", resolution=64, revision="abc")


def raising(error: Exception) -> Callable[..., str]:
    def refuse(*_args: object, **_keywords: object) -> str:
        raise error

    return refuse


def bare(kind: type[Exception]) -> Exception:
    """An error without the response that its constructor asks for."""
    return kind.__new__(kind)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.GatedRepoError, "the hub gates it; accept its licence at https://huggingface.co/o"),
        (errors.RepositoryNotFoundError, "the hub has none of that name, or it is private"),
        (errors.RevisionNotFoundError, "the hub has no such revision"),
        (errors.LocalEntryNotFoundError, "not in the local hub cache"),
        (OSError, "the hub did not give it"),
    ],
)
def test_a_refusal_is_one_line(
    kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising(bare(kind)))
    with pytest.raises(UserError) as caught:
        MODEL.check_source()
    assert f"model.path=org/name (revision abc): {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_offline_and_not_cached_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"not in the local hub cache .* HF_HUB_OFFLINE is set"):
        hub_snapshot("model.adapter", "soarbench/no-such-adapter", None, ["*.json"])


def test_what_is_no_hub_id_is_named() -> None:
    model = Sd3Config(name="x", path="a b/c", resolution=64)
    with pytest.raises(UserError, match="neither a directory nor a hub id"):
        model.check_source()


def test_directories_are_told_from_hub_ids() -> None:
    assert is_directory("./here")
    assert is_directory("/abs")
    assert is_directory("~/home")
    assert not is_directory("stabilityai/stable-diffusion-3.5-medium")
