"""A prediction server that counts every row it is asked: `python counting_server.py PORT_FILE COUNT_FILE`.

It serves the demo's risk score over HTTP and appends one line per request (rows, digest of the rows) before it
answers, so that nothing that was asked can go uncounted, whoever is killed.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "demo"))
from models import risk_score

COUNTS = Path(sys.argv[2])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        rows = np.asarray(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["instances"])
        with COUNTS.open("a") as file:
            for row in rows:
                file.write(hashlib.sha256(row.tobytes()).hexdigest() + "\n")
        time.sleep(0.01)
        body = json.dumps({"predictions": risk_score(rows).tolist()}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
risk_score(np.zeros((1, 30)))
Path(sys.argv[1]).write_text(str(server.server_address[1]))
server.serve_forever()
