"""A stand-in for W&B's server on loopback, which speaks what the wandb client says: GraphQL, file stream, uploads.

It keeps what it was given as the real one would (a line of history by its place, a file by its name, a run by its id),
and every byte that it was sent, so that tests can ask what is there, how often, and what should never have left.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

ENTITY = "team"
Mood = Literal["well", "slow", "hangs", "500", "401"]
SLOW_S = 1.0
_OPERATION = re.compile(r"(?:query|mutation)\s+(\w+)")


@dataclass
class Kept:
    """What the server has of one run."""

    config: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, str] = field(default_factory=dict)  # of history, by place
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(self.lines[place]) for place in sorted(self.lines)]


class StandIn:
    """The server; `with StandIn() as server` runs it on a free port."""

    def __init__(self) -> None:
        self.mood: Mood = "well"
        self.runs: dict[str, Kept] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}  # by id
        self.views: dict[str, dict[str, Any]] = {}  # by id
        self.asked: Counter[str] = Counter()  # operations of GraphQL, and the other kinds of request
        self.sent: list[bytes] = []  # each request, headers and body
        self._uploads: dict[str, Callable[[bytes], None]] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.block_on_close = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> StandIn:
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def everything(self) -> bytes:
        return b"\n".join(self.sent)

    def answer(self, path: str, headers: str, body: bytes) -> tuple[int, bytes]:
        """Status and body for one request."""
        with self._lock:
            self.sent.append(f"{path}\n{headers}".encode() + body)
        if self.mood == "hangs":
            self._over.wait()
        if self.mood == "slow":
            time.sleep(SLOW_S)
        if self.mood in ("500", "401", "hangs"):
            return (401 if self.mood == "401" else 500), b'{"error": "told to"}'
        with self._lock:
            return 200, self._taken(path, body)

    def _taken(self, path: str, body: bytes) -> bytes:
        if path.startswith("/upload/"):
            self.asked["upload"] += 1
            self._uploads[path](body)
            return b""
        if path.endswith("/file_stream"):
            self.asked["file stream"] += 1
            self._stream(self.runs[path.split("/")[-2]], json.loads(body))
            return b"{}"
        if path == "/graphql":
            asked = json.loads(body)
            match = _OPERATION.search(asked["query"])
            name = match[1] if match else "?"
            self.asked[name] += 1
            given = asked.get("variables") or {}
            return json.dumps({"data": getattr(self, f"_{name}", self._nothing)(given)}).encode()
        self.asked[path] += 1
        return b"{}"

    @staticmethod
    def _stream(run: Kept, given: dict[str, Any]) -> None:
        for name, part in (given.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                run.lines |= {part["offset"] + number: line for number, line in enumerate(part["content"])}
            elif name == "wandb-summary.json":
                run.summary = json.loads(part["content"][-1])
        if given.get("complete"):
            run.exit_code = given.get("exitcode")

    # Operations of GraphQL, by their names.

    @staticmethod
    def _nothing(given: dict[str, Any]) -> dict[str, Any]:
        return {}

    @staticmethod
    def _Viewer(given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        who = {"id": "u", "entity": ENTITY, "username": "someone", "email": "", "name": "someone", "flags": "{}"}
        return {"viewer": {**who, "teams": teams, "admin": False, "deletedAt": None, "apiKeys": {"edges": []}}}

    _GetViewer = _GetDefaultEntity = _Viewer

    @staticmethod
    def _ServerFeaturesQuery(given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"serverInfo": {"features": []}}

    @staticmethod
    def _ArtifactType(given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"project": None}  # no artifact of this name yet, so of no type

    def _RunResumeStatus(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        model = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": ENTITY}, "bucket": None}
        run = self.runs.get(given["name"])
        if run is not None:
            last = [run.lines[place] for place in sorted(run.lines)[-1:]]
            model["bucket"] = {
                **self._bucket(given["name"], given["project"]),
                "summaryMetrics": json.dumps(run.summary),
                "logLineCount": 0,
                "eventsLineCount": 0,
                "historyTail": json.dumps(last),
                "eventsTail": "[]",
                "tags": run.about.get("tags") or [],
                "notes": None,
                "wandbConfig": json.dumps({"t": 1}),
            }
        return {"model": model}

    def _UpsertBucket(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        inserted = given["name"] not in self.runs
        run = self.runs.setdefault(given["name"], Kept())
        run.about |= {name: value for name, value in given.items() if name != "config" and value is not None}
        if given.get("config"):
            run.config = {name: one["value"] for name, one in json.loads(given["config"]).items()}
        if given.get("summaryMetrics"):
            run.summary |= json.loads(given["summaryMetrics"])
        return {
            "upsertBucket": {"bucket": self._bucket(given["name"], str(given.get("project"))), "inserted": inserted}
        }

    def _bucket(self, name: str, project: str) -> dict[str, Any]:
        run = self.runs[name]
        return {
            "id": f"id-{name}",
            "name": name,
            "displayName": run.about.get("displayName"),
            "description": None,
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "sweepName": None,
            "project": {"id": "p", "name": project, "entity": {"id": "e", "name": ENTITY}},
            "historyLineCount": len(run.lines),
        }

    def _CreateRunFiles(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        files = self.runs[given["run"]].files
        made = [{"name": name, "uploadUrl": self._upload(files, name)} for name in given["files"]]
        return {"createRunFiles": {"runID": f"id-{given['run']}", "uploadHeaders": [], "files": made}}

    def _upload(self, into: dict[str, bytes], name: str) -> str:
        path = f"/upload/{len(self._uploads)}"
        self._uploads[path] = lambda body: into.__setitem__(name, body)
        return f"{self.address}{path}"

    def _CreateArtifact(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        asked = given["input"]
        what = (asked["artifactTypeName"], str(asked.get("artifactCollectionName")), asked["digest"])
        same = [key for key, one in self.artifacts.items() if one["what"] == what]  # the same content is no new version
        key = same[0] if same else f"artifact-{len(self.artifacts)}"
        new = {"what": what, "digest": asked["digest"], "files": {}, "manifest": {}, "state": "PENDING"}
        one = self.artifacts.setdefault(key, new)
        return {
            "createArtifact": {
                "artifact": {"id": key, "state": one["state"], "artifactSequence": {"latestArtifact": None}}
            }
        }

    def _CreateArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        url = self._upload(self.artifacts[given["artifactID"]]["manifest"], given["name"])
        file = {"id": "f", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": given["artifactID"], "file": file}}}

    def _UpdateArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        key = given["artifactManifestID"]
        file = {"id": "f", "uploadUrl": self._upload(self.artifacts[key]["manifest"], "manifest"), "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": key, "file": file}}}

    def _CreateArtifactFiles(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        edges = []
        for file in given["input"]["artifactFiles"]:
            url = self._upload(self.artifacts[file["artifactID"]]["files"], file["name"])
            node = {"storagePath": file["name"], "uploadUrl": url, "uploadHeaders": [], "uploadMultipartUrls": None}
            edges.append({"node": {**node, "artifact": {"id": file["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        one = self.artifacts[given["artifactID"]]
        one["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": one["digest"]}}}

    def _UpsertView2(self, given: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        key = given.get("id") or f"view-{len(self.views)}"
        inserted = key not in self.views
        self.views[key] = {**given, "spec": json.loads(given["spec"])}
        return {"upsertView": {"view": {"id": key, "name": given["name"]}, "inserted": inserted}}


def _handler(server: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            status, said = server.answer(self.path, str(self.headers), body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = do_PUT = _any  # noqa: N815

        def log_message(self, *args: Any) -> None:
            """Says nothing."""

    return Handler
