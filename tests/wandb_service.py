"""A stand-in for the W&B service on loopback: sweeps, agents and online runs, and a record of all that was said to it.

It hands out given trials in order and, where it is told to, asks the agent to stop one once it has reported.
"""

import base64
import gzip
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

ENTITY = "tester"


@dataclass
class Run:
    """What the service knows of one run."""

    config: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    sweep: str | None = None
    exit_code: int | None = None
    opened: int = 0


class Service:
    """The service's state; `url` once it is entered as a context.

    Arguments:
        trials: key -> value, one mapping for each trial, in order.
        stop: name of a run -> how many rows it may log before the agent is told to stop it.
    """

    def __init__(self, trials=(), stop=None):
        self.trials, self.stop = list(trials), stop or {}
        self.runs: dict[str, Run] = {}
        self.handed: list[str] = []
        self.sweep: dict | None = None
        self.current: str | None = None
        self.unknown: list[str] = []
        self.lock = threading.RLock()

    def __enter__(self):
        handler = type("Bound", (Handler,), {"service": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, query, variables):
        """The data of one GraphQL request."""
        name = re.search(r"(?:query|mutation)\s+(\w+)", query).group(1).lower()
        with self.lock:
            found = getattr(self, f"on_{name}", None)
            if found is None:
                self.unknown.append(name)
                return None
            return found(variables)

    def on_viewer(self, _):
        user = {
            "id": "VQ==",
            "entity": ENTITY,
            "username": ENTITY,
            "flags": "{}",
            "email": "t@localhost",
            "name": ENTITY,
        }
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        return {"viewer": user | {"admin": False, "deletedAt": None, "apiKeys": {"edges": []}, "teams": teams}}

    def on_serverinfo(self, _):
        versions = {"max_cli_version": "9.9.9", "min_cli_version": "0.0.1"}
        return {"serverInfo": {"cliVersionInfo": versions, "latestLocalVersionInfo": None, "features": []}}

    def on_serverfeaturesquery(self, _):
        return {"serverInfo": {"features": []}}

    def on_organizationcoreweaveorganizationid(self, _):
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def on_upsertsweep(self, variables):
        self.sweep = yaml.safe_load(variables["config"])
        return {"upsertSweep": {"sweep": {"name": "sweep1", "project": self.project()}, "configValidationWarnings": []}}

    def on_sweepwithruns(self, variables):
        known = {
            "id": "c3dlZXAx",
            "name": "sweep1",
            "method": self.sweep["method"],
            "config": yaml.safe_dump(self.sweep),
        }
        empty = dict.fromkeys(("description", "heartbeatAt", "updatedAt", "bestLoss", "controller", "scheduler"))
        more = {
            "state": "RUNNING",
            "createdAt": "2000-01-01T00:00:00Z",
            "earlyStopJobRunning": False,
            "runs": {"edges": []},
        }
        return {"project": {"sweep": known | empty | more}}

    def on_createagent(self, variables):
        return {"createAgent": {"agent": {"id": "agent1"}}}

    def on_heartbeat(self, variables):
        running = json.loads(variables["runState"] or "{}")
        return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(self.commands(running))}}

    def commands(self, running):
        """The next trial where none is running, a stop where one is due, an exit after the last."""
        if self.current in running:
            due = len(self.runs.get(self.current, Run()).history) >= self.stop.get(self.current, float("inf"))
            return [{"type": "stop", "run_id": self.current}] * due
        if len(self.handed) == len(self.trials):
            return [{"type": "exit"}]
        self.current = f"trial{len(self.handed)}"
        arguments = {key: {"value": value} for key, value in self.trials[len(self.handed)].items()}
        self.handed.append(self.current)
        return [
            {"type": "run", "run_id": self.current, "program": self.sweep["program"], "args": arguments, "logs": []}
        ]

    def on_runresumestatus(self, variables):
        return {"model": self.project() | {"bucket": None}}

    def on_upsertbucket(self, variables):
        run = self.runs.setdefault(variables["name"], Run())
        run.opened += 1
        run.sweep = variables.get("sweep") or run.sweep
        run.config = json.loads(variables["config"]) if variables.get("config") else run.config
        bucket = {
            "id": f"B{variables['name']}",
            "name": variables["name"],
            "displayName": variables["name"],
            "description": None,
        }
        bucket |= {"config": "{}", "sweepName": run.sweep, "historyLineCount": 0, "project": self.project()}
        return {"upsertBucket": {"bucket": bucket, "inserted": run.opened == 1}}

    def on_createrunfiles(self, variables):
        files = [{"name": name, "uploadUrl": f"{self.url}/put"} for name in variables["files"]]
        return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}

    def project(self):
        name = (self.sweep or {}).get("project", "gibbsnet")
        return {"id": base64.b64encode(name.encode()).decode(), "name": name, "entity": {"id": "RW50", "name": ENTITY}}

    def stream(self, name, content):
        """Rows of a run's history, and how it ended."""
        with self.lock:
            run = self.runs.setdefault(name, Run())
            for file, part in (content.get("files") or {}).items():
                if file.endswith("history.jsonl"):
                    run.history += map(json.loads, part["content"])
            if content.get("complete"):
                run.exit_code = content.get("exitcode")


class Handler(BaseHTTPRequestHandler):
    """HTTP around a `Service`."""

    protocol_version = "HTTP/1.1"
    service: Service

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send({})

    def do_PUT(self):
        self.body()
        self.send({})

    def do_POST(self):
        body = self.body()
        if self.path.endswith("/graphql"):
            asked = json.loads(body)
            data = self.service.answer(asked["query"], asked.get("variables") or {})
            self.send({"data": data} if data else {"errors": [{"message": "not known here"}]}, 200 if data else 400)
            return
        if "/file_stream" in self.path:
            self.service.stream(self.path.rstrip("/").split("/")[-2], json.loads(body or b"{}"))
        self.send({"exitcode": None, "limits": {}})

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            raw = b"".join(self.chunks())
        else:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(raw) if self.headers.get("Content-Encoding") == "gzip" else raw

    def chunks(self):
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def send(self, content, code=200):
        raw = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)
