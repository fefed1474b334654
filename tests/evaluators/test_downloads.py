"""Files from outside the hub: fetched once, and only as published."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from evaluators.downloads import download, resolve_published
from evaluators.weights import PublishedFile, WeightsError

CONTENT = b"weights"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "weights.pth").write_bytes(CONTENT)
    handler = functools.partial(Quiet, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOARBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "files"


def published(url: str, name: str = "weights.pth", content: bytes = CONTENT) -> PublishedFile:
    digest = hashlib.sha256(content).hexdigest()
    return PublishedFile(name=name, url=f"{url}/{name}", sha256=digest[:8], disk_gb=0.0)


def test_a_file_is_fetched_once_and_kept(url: str, cache: Path) -> None:
    file = published(url)
    assert resolve_published(file).read_bytes() == CONTENT
    os.utime(file.path, (1, 1))
    assert resolve_published(file).stat().st_mtime == 1
    assert [path.name for path in cache.iterdir()] == ["weights.pth"]


def test_what_somebody_put_there_is_taken_only_as_published(url: str) -> None:
    file = published(url)
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(b"another")
    with pytest.raises(WeightsError, match=f"{file.path}: another file than published.*put the"):
        resolve_published(file)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"content": b"another"}, "its sha256 is"), ({"name": "gone.pth"}, "does not give it")],
)
def test_another_content_or_none_is_one_line_and_leaves_nothing(
    url: str, cache: Path, values: dict[str, object], message: str
) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        download(published(url, **values))
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


def test_offline_nothing_is_asked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set: http"):
        resolve_published(published(url), key="detector")
