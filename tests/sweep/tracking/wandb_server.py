"""A small Weights & Biases server for tests: it answers over HTTP and keeps what clients send in memory.

It knows as much of the protocol as this project uses. It contains no code of W&B: what a client sends was read off the
wire.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

ENTITY = "researcher"
API_KEY = "0123456789" * 4
_WHEN = "2026-01-01T00:00:00Z"  # the time at which everything has happened
_OPERATION = re.compile(r"\b(?:query|mutation)\s+(\w+)")


@dataclass
class Run:
    """Everything that the server knows about a run."""

    name: str
    project: str
    entity: str
    attributes: dict[str, Any] = field(default_factory=dict)  # by the names of GraphQL's variables
    streams: dict[str, dict[int, str]] = field(default_factory=dict)  # {file: {offset: line}}; a line sent twice is one
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None  # None while the run is under way
    opened: int = 0  # sessions that clients have begun

    @property
    def config(self) -> dict[str, Any]:
        return {key: entry["value"] for key, entry in json.loads(self.attributes.get("config") or "{}").items()}

    @property
    def history(self) -> list[dict[str, Any]]:
        return self._lines("wandb-history.jsonl")

    @property
    def summary(self) -> dict[str, Any]:
        lines = self._lines("wandb-summary.json")
        return lines[-1] if lines else json.loads(self.attributes.get("summaryMetrics") or "{}")

    def _lines(self, file: str) -> list[dict[str, Any]]:
        return [json.loads(line) for _, line in sorted(self.streams.get(file, {}).items())]


@dataclass
class Artifact:
    """An artifact and its files."""

    name: str
    type: str
    digest: str
    files: dict[str, bytes] = field(default_factory=dict)
    manifest: bytes = b""
    committed: bool = False


class WandbServer:
    """A server that keeps what clients send; `delay` and `refuse` make it slow or let it fail.

    Attributes:
        operations: {GraphQL operation: function from its variables to the answer's `data`}.
        seen: every request in order, as the operation's name or as "METHOD path".
        delay: seconds before each answer.
        refuse: maps a request, named as in `seen`, to the HTTP status to fail with, or to None.
    """

    def __init__(self):
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.seen: list[str] = []
        self.delay = 0.0
        self.refuse: Callable[[str], int | None] = lambda asked: None
        self.url = ""
        self.lock = threading.RLock()
        self.operations: dict[str, Callable[[dict[str, Any]], Any]] = {
            "ServerFeaturesQuery": lambda given: {"serverInfo": {"features": []}},
            "ServerInfo": self._server_info,
            "Viewer": self._viewer,
            "GetDefaultEntity": self._viewer,
            "UpsertBucket": self._upsert_run,
            "RunResumeStatus": self._resume_status,
            "CreateRunFiles": self._create_files,
            "MarkRunFilesUploaded": lambda given: {"markRunFilesUploaded": {"success": True}},
            "Runs": self._list_runs,
            "RunFiles": self._list_files,
            "CreateArtifact": self._create_artifact,
            "CreateArtifactManifest": self._create_manifest,
            "UpdateArtifactManifest": self._create_manifest,
            "CreateArtifactFiles": self._create_artifact_files,
            "CommitArtifact": self._commit_artifact,
            "UseArtifact": lambda given: {"useArtifact": {"artifact": {"id": given["input"]["artifactID"]}}},
        }

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which a client finds this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": API_KEY}

    # GraphQL

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a GraphQL query."""
        operation = operation_of(query)
        with self.lock:
            if operation not in self.operations:
                return {"errors": [{"message": f"this server knows no {operation}"}]}
            return {"data": self.operations[operation](variables)}

    def _viewer(self, given: dict[str, Any]) -> Any:
        names = {"id": "u", "entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": "r@example.org"}
        return {"viewer": {**names, "flags": "{}", "teams": {"edges": []}, "admin": False}}

    def _server_info(self, given: dict[str, Any]) -> Any:
        return {"serverInfo": {"cliVersionInfo": {"max_cli_version": "0.31.0"}, "latestLocalVersionInfo": None}}

    def _upsert_run(self, given: dict[str, Any]) -> Any:
        entity, project = given.get("entity") or ENTITY, given.get("project") or "uncategorized"
        inserted = given["name"] not in self.runs
        run = self.runs.setdefault(given["name"], Run(given["name"], project, entity))
        run.opened += 1
        run.attributes |= {key: value for key, value in given.items() if value is not None}
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": inserted}}

    def _bucket(self, run: Run) -> dict[str, Any]:
        project = {"id": run.project, "name": run.project, "entity": {"id": run.entity, "name": run.entity}}
        names = {"id": f"id-{run.name}", "name": run.name, "displayName": run.attributes.get("displayName")}
        content = {"config": run.attributes.get("config"), "historyLineCount": len(run.history)}
        return {**names, **content, "project": project, "description": None, "sweepName": None}

    def _resume_status(self, given: dict[str, Any]) -> Any:
        run = self.runs.get(given["name"])
        model = {"id": given["project"], "name": given["project"], "entity": {"id": ENTITY, "name": ENTITY}}
        if run is None:
            return {"model": {**model, "bucket": None}}
        tail = json.dumps([json.dumps(line) for line in run.history[-1:]])
        names = {"id": f"id-{run.name}", "name": run.name, "displayName": run.name, "notes": None}
        content = {"summaryMetrics": json.dumps(run.summary), "historyTail": tail, "eventsTail": "[]"}
        counts = {"logLineCount": 0, "historyLineCount": len(run.history), "eventsLineCount": 0}
        bucket = {**names, **_tags_and_config(run), "wandbConfig": '{"t": 1}', **content, **counts}
        return {"model": {**model, "bucket": bucket}}

    def _create_files(self, given: dict[str, Any]) -> Any:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/storage/run/{given['run']}/{name}"} for name in given["files"]
        ]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def _list_runs(self, given: dict[str, Any]) -> Any:
        wanted = json.loads(given.get("filters") or "{}")
        place = given["entity"], given["project"]
        there = [run for run in self.runs.values() if (run.entity, run.project) == place]
        if not there:
            return {"project": None}
        found = [run for run in there if _matches(run, wanted)]
        start = int(given.get("cursor") or 0)
        page = found[start : start + given.get("perPage", 50)]
        end = start + len(page)
        edges = [{"node": self._listed(run), "cursor": str(start + i + 1)} for i, run in enumerate(page)]
        info = {"endCursor": str(end), "hasNextPage": end < len(found)}
        runs = {"edges": edges, "pageInfo": info}
        return {"project": {"internalId": "1", "runCount": len(found), "readOnly": False, "runs": runs}}

    def _listed(self, run: Run) -> dict[str, Any]:
        state = "running" if run.exit_code is None else "finished" if run.exit_code == 0 else "failed"
        names = {"projectId": "1", "id": f"id-{run.name}", "name": run.name}
        names |= {"displayName": run.attributes.get("displayName"), "user": {"name": ENTITY, "username": ENTITY}}
        kind = {"group": run.attributes.get("groupName"), "jobType": run.attributes.get("jobType"), "state": state}
        times = {"createdAt": _WHEN, "heartbeatAt": f"{_WHEN}#{run.opened}"}  # each session changes the heartbeat
        content = {"historyLineCount": len(run.history), "summaryMetrics": json.dumps(run.summary)}
        empty = dict.fromkeys(("sweepName", "commit", "description", "notes", "historyKeys"))
        fixed = {"readOnly": False, "systemMetrics": "{}", **empty}
        return {**names, **kind, **times, **_tags_and_config(run), **content, **fixed}

    def _list_files(self, given: dict[str, Any]) -> Any:
        run = self.runs.get(given["name"])
        if run is None:
            return {"project": {"internalId": "1", "run": None}}
        names = given.get("fileNames") or list(run.files)
        edges = [{"node": self._file(run, name), "cursor": name} for name in names if name in run.files]
        files = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"project": {"internalId": "1", "run": {"fileCount": len(run.files), "files": files}}}

    def _file(self, run: Run, name: str) -> dict[str, Any]:
        url, content = f"{self.url}/storage/run/{run.name}/{name}", run.files[name]
        digest = base64.b64encode(hashlib.md5(content).digest()).decode()
        place = {"id": name, "name": name, "url": url, "directUrl": url}
        about = {"sizeBytes": len(content), "md5": digest, "mimetype": "application/json", "updatedAt": _WHEN}
        return {**place, **about}

    def _create_artifact(self, given: dict[str, Any]) -> Any:
        asked = given["input"]
        name = asked["artifactCollectionName"]
        self.artifacts.setdefault(name, Artifact(name, asked["artifactTypeName"], asked["digest"]))
        state = "COMMITTED" if self.artifacts[name].committed else "PENDING"
        return {
            "createArtifact": {"artifact": {"id": name, "state": state, "artifactSequence": {"latestArtifact": None}}}
        }

    def _create_manifest(self, given: dict[str, Any]) -> Any:
        name = given.get("artifactID") or given["artifactManifestID"]
        file = {"id": name, "uploadUrl": f"{self.url}/storage/manifest/{name}", "uploadHeaders": []}
        manifest = {"artifactManifest": {"id": name, "file": file}}
        return {"createArtifactManifest": manifest, "updateArtifactManifest": manifest}

    def _create_artifact_files(self, given: dict[str, Any]) -> Any:
        edges: list[dict[str, Any]] = []
        for asked in given["input"]["artifactFiles"]:
            artifact, name = asked["artifactID"], asked["name"]
            upload = {"uploadUrl": f"{self.url}/storage/artifact/{artifact}/{name}", "uploadHeaders": []}
            node = {"storagePath": name, **upload, "uploadMultipartUrls": None, "artifact": {"id": artifact}}
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _commit_artifact(self, given: dict[str, Any]) -> Any:
        artifact = self.artifacts[given["artifactID"]]
        artifact.committed = True
        return {"commitArtifact": {"artifact": {"id": artifact.name, "digest": artifact.digest}}}

    # Files

    def stream(self, run: str, sent: dict[str, Any]) -> dict[str, Any]:
        """Keep the lines of the file stream at their offsets, and the exit code once the client says that it ended."""
        with self.lock:
            known = self.runs[run]
            for name, chunk in (sent.get("files") or {}).items():
                lines = known.streams.setdefault(name, {})
                lines.update({chunk["offset"] + i: line for i, line in enumerate(chunk["content"])})
            if sent.get("complete"):
                known.exit_code = sent.get("exitcode")
        return {"exitcode": None, "limits": {}}

    def put(self, kind: str, owner: str, name: str, content: bytes) -> None:
        """Keep an uploaded file; `kind` is run, artifact or manifest, and `owner` the run's or artifact's name."""
        with self.lock:
            if kind == "run":
                self.runs[owner].files[name] = content
            elif kind == "artifact":
                self.artifacts[owner].files[name] = content
            else:
                self.artifacts[owner].manifest = content


def operation_of(query: str) -> str:
    """Return the name of the operation in a GraphQL query, or "?" if it has none."""
    found = _OPERATION.search(query)
    return found.group(1) if found else "?"


def _tags_and_config(run: Run) -> dict[str, Any]:
    return {"tags": run.attributes.get("tags") or [], "config": run.attributes.get("config") or "{}"}


def _matches(run: Run, wanted: dict[str, Any]) -> bool:
    """Return whether a run passes a filter in MongoDB's language, of which this is the part that the project uses."""
    for key, value in wanted.items():
        if key == "$and":
            if not all(_matches(run, part) for part in value):
                return False
            continue
        own = run.attributes.get({"group": "groupName"}.get(key, key))
        if isinstance(value, dict):
            if "$in" not in value or own not in value["$in"]:
                return False
        elif own != value:
            return False
    return True


class _Handler(BaseHTTPRequestHandler):
    """Translates HTTP requests into calls of the server's methods."""

    protocol_version = "HTTP/1.1"
    wandb: WandbServer

    def do_POST(self) -> None:
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        if path == "/graphql":
            sent = json.loads(body)
            if self._accepted(operation_of(sent["query"])):
                self._send(json.dumps(self.wandb.answer(sent["query"], sent.get("variables") or {})).encode())
        elif self._accepted(f"POST {path}"):
            if fnmatchcase(path, "/files/*/*/*/file_stream"):
                self._send(json.dumps(self.wandb.stream(path.split("/")[4], json.loads(body))).encode())
            else:  # the client's own telemetry
                self._send(b"", 404)

    def do_PUT(self) -> None:
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        if self._accepted(f"PUT {path}"):
            _, _, kind, owner, *name = path.split("/")
            self.wandb.put(kind, owner, "/".join(name), body)
            self._send(b"")

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if not self._accepted(f"GET {path}"):
            return
        parts = path.split("/")
        run = self.wandb.runs.get(parts[3]) if path.startswith("/storage/run/") else None
        content = run.files.get("/".join(parts[4:])) if run else None
        self._send(content or b"", 200 if content is not None else 404)

    def _accepted(self, asked: str) -> bool:
        """Note the request and return whether to answer it; if it is to be refused, send the failure."""
        self.wandb.seen.append(asked)
        time.sleep(self.wandb.delay)
        status = self.wandb.refuse(asked)
        if status is not None:
            self._send(b'{"errors": [{"message": "not now"}]}', status)
        return status is None

    def _body(self) -> bytes:
        """Read the request's body, which may come in chunks."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts: list[bytes] = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, content: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def wandb_server(server: WandbServer | None = None):
    """Run `server`, or a new one, on a free port of this machine while the context lasts."""
    server = server or WandbServer()
    handler = type("Handler", (_Handler,), {"wandb": server})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
