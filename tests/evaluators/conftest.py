"""What tests of several judges share."""

import threading

import pytest

from tests.evaluators.chat_server import Judge


@pytest.fixture
def serve():
    """Start a server; its base_url and itself."""
    servers = []

    def start(reply):
        server = Judge(reply)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/v1", server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
