"""Tensors on disk by key."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from soarbench.models.tensor_store import TensorStore


def test_entries_come_back_bit_for_bit_in_another_process(tmp_path: Path) -> None:
    store = TensorStore(tmp_path)
    value = torch.randn(3, 2, 5).to(torch.bfloat16)
    store.add(["a", "b", "c"], {"x": value, "y": value[:, 0]})
    store.add(["d"], {"x": torch.ones(1, 7)})
    for found in (store, TensorStore(tmp_path), pickle.loads(pickle.dumps(store))):  # noqa: S301
        assert len(found) == 4
        assert found["b"]["x"].dtype is torch.bfloat16
        assert torch.equal(found["b"]["x"], value[1])
        assert torch.equal(found["c"]["y"], value[2, 0])
        assert found["d"]["x"].shape == (7,)
        assert torch.equal(found["a"]["x"], value[0])


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    store = TensorStore(tmp_path / "not there yet")
    assert "a" not in store
    store.add(["a"], {"x": torch.zeros(1)})
    assert "a" in store
    assert "b" not in store


def test_a_write_that_was_cut_short_is_no_entry(tmp_path: Path) -> None:
    store = TensorStore(tmp_path)
    store.add(["a"], {"x": torch.zeros(1)})
    (path,) = tmp_path.glob("*.safetensors")
    path.rename(path.with_name(f"{path.name}.partial"))
    assert len(TensorStore(tmp_path)) == 0


def test_a_damaged_file_is_named_and_its_entries_are_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = TensorStore(tmp_path)
    for key in "ab":
        store.add([key], {"x": torch.zeros(9)})
    (first, _) = sorted(tmp_path.glob("*.safetensors"))
    content = first.read_bytes()
    for damaged in (b"", b"\x05", content[:-1], b"\0" * len(content)):
        first.write_bytes(damaged)
        store = TensorStore(tmp_path)
        (key,) = [key for key in "ab" if key not in store]
        assert f"{first} is damaged" in caplog.messages[-1]
        store.add([key], {"x": torch.zeros(9)})
        assert first.read_bytes() == content
