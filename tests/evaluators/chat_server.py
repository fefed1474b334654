"""An OpenAI-compatible server of our own that answers, stumbles and refuses."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Judge(ThreadingHTTPServer):
    """Answers each request with what ``reply(body, count)`` gives: (status, headers, text)."""

    daemon_threads = True

    def __init__(self, reply):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply = reply
        self.listed = None
        self.requests = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        judge = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with judge.lock:
            judge.requests.append((self.path, dict(self.headers), body))
            count = len(judge.requests)
            judge.under_way += 1
            judge.most_under_way = max(judge.most_under_way, judge.under_way)
        status, headers, text = judge.reply(body, count)
        with judge.lock:
            judge.under_way -= 1
        # A client that has given up is gone.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(text.encode()))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())
            self.wfile.flush()

    def do_GET(self):
        if self.server.listed is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.listed.encode())

    def log_message(self, *_):
        """No noise."""


def completion(text):
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


def listing(*names):
    """The models that a server says it has."""
    return json.dumps({"data": [{"id": name} for name in names]})
