"""Images become latents once; what training reads are the same numbers, at every size."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from soarbench.common.errors import UserError
from soarbench.data.buckets import fit
from soarbench.data.config import ImageDataConfig
from soarbench.data.curation import Curation
from soarbench.data.encoded_rows import EncodedRows
from soarbench.data.forms import JsonlDataConfig, WebDatasetConfig
from soarbench.data.rows import encode_entries, fresh_rows, stored_rows
from soarbench.models.tensor_store import TensorStore
from tests.sets import picture, write_set, write_shards


def encode(images: Sequence[Image.Image]) -> Tensor:
    """Stands for the autoencoder: every eighth pixel."""
    pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]
    return torch.stack(pixels)[:, :, ::8, ::8].float()


def refuse(_: Sequence[Image.Image]) -> Tensor:
    raise AssertionError("encoded again")


def condition(prompt: str) -> dict[str, Tensor]:
    return {"length": torch.tensor([float(len(prompt))])}


def curation(folder: Path, config: ImageDataConfig) -> Curation:
    known = config.with_content()
    assert isinstance(known, ImageDataConfig)
    return Curation(known, 64, {}, None, folder / "cache")


def rows(folder: Path, config: ImageDataConfig, encoder=encode) -> EncodedRows:  # type: ignore[no-untyped-def]
    found = curation(folder, config)
    store = TensorStore(folder / "latents")
    return stored_rows(encode_entries(found.entries(), found, store, encoder), store, condition)


@pytest.mark.parametrize("step", [None, 16])
def test_rows_hold_the_fitted_images_and_their_captions(tmp_path: Path, step: int | None) -> None:
    path = str(write_set(tmp_path))
    found = rows(tmp_path, JsonlDataConfig(path=path, bucket_step=step))
    assert len(found) == 6
    for number, size in enumerate(found.sizes):
        row = found[number]
        assert row["prompt"] == f"a drawing number {number}"
        assert row["condition"]["length"].item() == len(row["prompt"])
        assert torch.equal(row["x0"], encode([fit(picture(number), size)])[0])
    assert set(found.sizes) == ({(64, 64)} if step is None else {(64, 64), (48, 80)})


def test_the_second_time_nothing_is_encoded(tmp_path: Path) -> None:
    config = WebDatasetConfig(path=str(write_shards(tmp_path / "set")))
    first = rows(tmp_path, config)
    again = rows(tmp_path, config, refuse)
    assert all(torch.equal(first[i]["x0"], again[i]["x0"]) for i in range(6))


def test_fresh_rows_are_the_stored_ones(tmp_path: Path) -> None:
    config = JsonlDataConfig(path=str(write_set(tmp_path)), bucket_step=16, cache_latents=False)
    found = curation(tmp_path, config)
    fresh = fresh_rows(found.entries(), found, encode, condition)
    stored = rows(tmp_path, dataclasses.replace(config, cache_latents=True))
    assert fresh.sizes == stored.sizes
    for number in (5, 0, 2):
        assert torch.equal(fresh[number]["x0"], stored[number]["x0"])
    (tmp_path / "images/0.png").unlink()
    with pytest.raises(UserError, match=r"images/0\.png.*with data\.cache_latents=true"):
        fresh[0]


def cut(path: Path) -> None:
    """Leave the header of an image and lose its end."""
    path.write_bytes(path.read_bytes()[:-2000])


def test_an_image_that_turns_out_to_be_cut_short_is_left_out_for_good(tmp_path: Path) -> None:
    config = JsonlDataConfig(path=str(write_set(tmp_path)), max_unreadable=1)
    cut(tmp_path / "images/2.png")
    first = rows(tmp_path, config)
    assert [prompt[-1] for prompt in first.prompts] == ["0", "1", "3", "4", "5"]
    assert rows(tmp_path, config, refuse).prompts == first.prompts
    strict = dataclasses.replace(config, max_unreadable=0)
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"1 images cannot be used.*images/2\.png"):
        rows(tmp_path / "other", strict)


def test_shapes_number_the_sizes(tmp_path: Path) -> None:
    found = rows(tmp_path, JsonlDataConfig(path=str(write_set(tmp_path)), bucket_step=16))
    shapes = found.shapes(4)
    assert shapes is not None
    assert shapes.block == 4
    assert list(shapes.of_row) == [1, 1, 0, 1, 1, 0]
    assert found.without_latents().shapes(4) is None
    assert "x0" not in found.without_latents()[0]


def test_an_image_that_changed_after_the_set_was_read_is_told(tmp_path: Path) -> None:
    config = JsonlDataConfig(path=str(write_set(tmp_path)))
    found = curation(tmp_path, config)
    entries = found.entries()
    picture(2, (90, 90)).save(tmp_path / "images/2.png")
    with pytest.raises(UserError, match=r"line 3 .* has changed since .*: .* move .*rows-.* away"):
        encode_entries(entries, found, TensorStore(tmp_path / "latents"), encode)
    with pytest.raises(UserError, match="has changed since"):
        fresh_rows(entries, found, encode, condition)
