"""Shipped weights are verified before they are used."""

import pytest

from soarbench.common.errors import UserError
from soarbench.lab import assets


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "weights.safetensors").write_bytes(b"weights")
    assets.write_manifest(tmp_path)
    return tmp_path


def test_an_intact_asset_is_found(folder):
    assert assets.asset_dir("base", folder) == folder / "base"


def test_a_corrupted_file_is_named_with_the_command_that_rebuilds_it(folder):
    (folder / "base" / "weights.safetensors").write_bytes(b"wrights")
    with pytest.raises(UserError, match=r"weights\.safetensors is corrupted.*lab build stage=base"):
        assets.asset_dir("base", folder)


def test_a_missing_file_is_named(folder):
    (folder / "base" / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"weights\.safetensors is missing"):
        assets.asset_dir("base", folder)


def test_a_laboratory_that_was_not_built_says_how(tmp_path):
    with pytest.raises(UserError, match="lab build"):
        assets.asset_dir("base", tmp_path)
