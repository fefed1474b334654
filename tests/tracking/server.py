"""MLflow's own server in a thread, which a test can take away and bring back."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from werkzeug.serving import BaseWSGIServer, make_server

Mode = Literal["answers", "is refused", "hangs", "fails", "loses answers"]


class Server:
    """A server that keeps everything in a folder.

    Attributes:
        mode: How it behaves: ``loses answers`` does what it is asked, and says that it failed.
        asked: Paths of all requests.
    """

    def __init__(self, folder: Path) -> None:
        os.environ |= {
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder / 'server.db'}",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        }
        from mlflow.server import app

        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        self._app = app
        self.mode: Mode = "answers"
        self.asked: list[str] = []
        self._awake = threading.Event()
        self._server: BaseWSGIServer | None = None
        self.port = 0
        self.listen()

    @property
    def uri(self) -> str:
        """With a name and a password, which must never be seen."""
        return f"http://user:hush@127.0.0.1:{self.port}"

    def listen(self) -> None:
        """Begin to answer."""
        self._server = make_server("127.0.0.1", self.port, self._handle, threaded=True)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def become(self, mode: Mode) -> None:
        """Behave otherwise from now on."""
        if mode == self.mode:
            return
        if self.mode == "is refused":
            self.listen()
        self._awake.set()
        self._awake = threading.Event()
        self.mode = mode
        if mode == "is refused":
            assert self._server is not None
            self._server.shutdown()
            self._server.server_close()

    def _handle(self, environ: dict[str, object], start: Callable[..., object]) -> Iterable[bytes]:
        self.asked.append(str(environ["PATH_INFO"]))
        if self.mode == "hangs":
            self._awake.wait()
        if self.mode == "loses answers" and environ["PATH_INFO"].endswith("/runs/create"):
            b"".join(self._app(environ, lambda *_: None))
            self.mode = "answers"
            start("503 Service Unavailable", [])
            return [b""]
        if self.mode == "fails" or self.mode == "hangs":
            start("500 Internal Server Error", [])
            return [b"broken"]
        return self._app(environ, start)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server for a while."""
    before = dict(os.environ)
    server = Server(folder)
    try:
        yield server
    finally:
        server.become("is refused")
        os.environ.clear()
        os.environ.update(before)
