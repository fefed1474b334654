"""Fetching without a network, and the check of what was fetched."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from evaluators.weights import PublishedFile, PublishedWeights
from soarbench.cli.app import main
from soarbench.cli.fetch import verify
from soarbench.cli.published import data_rows, prompt_rows, public_adapters
from soarbench.common.errors import ConfigError, DamagedFile, UserError
from soarbench.common.plugins import conf_folders
from soarbench.config.registries import suite_named
from soarbench.evaluation.suites import PromptFile
from soarbench.grid.expand import with_digest


def test_offline_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["fetch", "pickscore"]) == 2
    text = capsys.readouterr().err
    assert "is not in the local hub cache" in text
    assert text.count("\n") == 1


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    weights = PublishedWeights(repo="a/b", files=("*.bin",), disk_gb=0, memory_gb=0)
    digest = hashlib.sha256(b"whole").hexdigest()
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "blobs" / digest).write_bytes(b"whole")
    (tmp_path / "snapshot/m.bin").symlink_to(tmp_path / "blobs" / digest)
    assert verify(weights, tmp_path / "snapshot") == 1
    (tmp_path / "blobs" / digest).write_bytes(b"torn")
    with pytest.raises(DamagedFile, match=rf"{digest}, set aside as .* is damaged"):
        verify(weights, tmp_path / "snapshot")
    # Nothing passes for it any more, so that the hub's client fetches it.
    assert not (tmp_path / "snapshot/m.bin").is_symlink()
    assert (tmp_path / "blobs" / f"{digest}.damaged-1").read_bytes() == b"torn"


PROMPTS = b'a sign "open"\na sign "shut"\na sign "open"\n'


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("SOARBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "test.txt").write_bytes(PROMPTS)
    handler = functools.partial(Quiet, directory=tmp_path / "served")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/test.txt"
        server.shutdown()


def prompts_at(url: str, content: bytes, monkeypatch: pytest.MonkeyPatch) -> PromptFile:
    """The OCR suite, whose published file is at a URL; it is all that ``fetch prompts`` gets."""
    sha256 = hashlib.sha256(content).hexdigest()
    file = PublishedFile(name="ocr.txt", url=url, sha256=sha256, disk_gb=0.0)
    monkeypatch.setattr("soarbench.cli.fetch.prompt_files", lambda _folders: {"ocr": file})
    suite = suite_named("ocr")
    assert isinstance(suite, PromptFile)
    return dataclasses.replace(suite, published=file)


def test_fetched_prompts_are_what_a_suite_is_evaluated_on(
    served: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = prompts_at(served, PROMPTS, monkeypatch)
    assert suite.needs_file
    with pytest.raises(UserError, match="`python -m soarbench fetch prompts` gets them, or give"):
        suite.items()
    assert main(["fetch", "prompts"]) == 0
    assert "verified by sha256" in capsys.readouterr().out
    assert [item.prompt for item in suite.items()] == ['a sign "open"', 'a sign "shut"']
    mine = dataclasses.replace(suite, prompts=str(suite.path), published=None)
    assert with_digest(suite).prompts_sha256 == with_digest(mine).prompts_sha256
    assert suite.path is not None
    suite.path.write_bytes(b"another prompt")
    with pytest.raises(ConfigError, match="is not the published file of suite 'ocr': its sha256"):
        with_digest(suite)
    assert main(["fetch", "prompts"]) == 0
    assert with_digest(suite).prompts_sha256 == with_digest(mine).prompts_sha256
    assert suite.path.with_name("ocr.txt.damaged-1").read_bytes() == b"another prompt"


def test_prompts_of_another_content_are_refused_in_one_line_and_not_kept(
    served: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = prompts_at(served, b"as published", monkeypatch)
    assert main(["fetch", "prompts"]) == 2
    text = capsys.readouterr().err
    assert "its sha256 is" in text
    assert text.count("\n") == 1
    assert suite.path is None
    assert suite.published is not None
    assert list(suite.published.path.parent.iterdir()) == []


def test_prompts_data_and_adapters_are_listed_with_where_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOARBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    rows = {row.name: row for row in [*prompt_rows(conf_folders()), *data_rows(conf_folders())]}
    assert {"suite=drawbench", "suite=ocr", "data=dalle3", "data=text_to_image_2m"} <= rows.keys()
    assert rows["suite=drawbench"].command == "python -m soarbench fetch prompts"
    assert rows["suite=drawbench"].source == "NVlabs/DiffusionNFT@24af555"
    assert "--include 'data_1024_10K/*.tar'" in rows["data=text_to_image_2m"].command
    assert "licence cc0-1.0" in rows["data=dalle3"].summary
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "ocr.txt").write_text("x")
    assert {row.name: row.state for row in prompt_rows(conf_folders())}["suite=ocr"] == "ready"
    assert len(public_adapters(conf_folders())) == 4
