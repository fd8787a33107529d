"""Of a Weights & Biases server what saving a workspace and a report needs."""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Views:
    """Answers by the operation's name, each from its variables to `data`."""

    def __init__(self):
        self.projects = ["expander-sae"]
        self.saved = {}  # view id -> the variables it was saved with
        self.seen = []
        self.operations = {
            "Viewer": lambda given: {"viewer": {"id": "u", "entity": "researcher", "username": "researcher",
                                                "email": "r@example.org", "flags": "{}", "teams": {"edges": []}}},
            "GetDefaultEntity": lambda given: {"viewer": {"id": "u", "entity": "researcher"}},
            "GetProjects": self._projects,
            "ProjectInternalId": lambda given: {"project": {"id": "p", "internalId": "7"}},
            "UpsertView2": self._save,
            "upsertView": self._save,
        }  # fmt: skip

    def _projects(self, given):
        nodes = [{"__typename": "Project", "id": name, "name": name, "entityName": given["entity"],
                  "createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": None}
                 for name in self.projects]  # fmt: skip
        info = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"edges": [{"node": node, "cursor": node["id"]} for node in nodes], "pageInfo": info}}

    def _save(self, given):
        inserted = given.get("id") is None
        view_id = given["id"] if not inserted else f"view{len(self.saved)}"
        self.saved[view_id] = given
        project = {"id": "p", "name": given["projectName"], "entityName": given["entityName"]}
        kept = ("name", "type", "displayName", "description", "spec")
        view = {"id": view_id, "project": project, **{name: given[name] for name in kept}, "updatedAt": None}
        return {"upsertView": {"view": view, "inserted": inserted}}

    def answer(self, body):
        sent = json.loads(body)
        operation = re.search(r"\b(?:query|mutation)\s+(\w+)", sent["query"]).group(1)
        self.seen.append(operation)
        if operation not in self.operations:
            return {"errors": [{"message": f"permission denied: {operation}"}]}
        return {"data": self.operations[operation](sent.get("variables") or {})}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    views: Views

    def do_POST(self):
        body = b"".join(self.chunks())
        known = self.path == "/graphql"  # and not the client's telemetry
        content = json.dumps(self.views.answer(body)).encode() if known else b""
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def chunks(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def log_message(self, *arguments): ...


@contextmanager
def views_server():
    views = Views()
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("", (Handler,), {"views": views}))
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    views.url = f"http://127.0.0.1:{http.server_port}"
    try:
        yield views
    finally:
        http.shutdown()
        http.server_close()
