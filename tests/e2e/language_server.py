"""py3langid, a language identifier that nobody here wrote, behind KServe v1: run in an environment of its own.

`python language_server.py PORT` serves POST /v1/models/language:predict, {"instances": [text, ...]}.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from py3langid.langid import MODEL_FILE, LanguageIdentifier

MODEL = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
NAMES = sorted(label for label, _ in MODEL.rank("a"))


class Handler(BaseHTTPRequestHandler):
    """Probabilities of every language, in the order of their names."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(200, NAMES)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        rows = []
        for text in asked["instances"]:
            scores = {name: float(p) for name, p in MODEL.rank(text)}
            rows.append([scores[name] for name in NAMES])
        self.answer(200, {"predictions": rows})

    def answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
