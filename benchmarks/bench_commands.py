"""What starting the command costs, as a multiple of what importing SimPy and NumPy does; and what
POST /optimizeOne costs besides optimizing, as a multiple of that.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import process_time
from typing import Any

from fastapi import FastAPI

from loop.optimizer.front import optimize
from loop.optimizer.rules import OptimizerSettings
from loop.optimizer.rules.ours import OURS
from loop.schema.optimizer_messages import optimize_message, server_row
from loop.schema.reading import read_system
from loop.services.optimizer_app import make_optimizer_app

ROOT = Path(__file__).resolve().parent.parent
BASE = [sys.executable, "-c", "import simpy, numpy"]
HELP = [sys.executable, "-m", "inferno", "--help"]
ROUNDS, ASKED = 8, 40
GREEDY = OptimizerSettings(rules=OURS, solver="greedy")


def figures() -> Iterator[dict[str, Any]]:
    """Yield the figures, each the least of interleaved rounds."""
    with tempfile.TemporaryDirectory() as folder:
        # As where it is installed: compiled once, by the first round.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        spent = [[started(words, environment) for words in (BASE, HELP)] for _ in range(ROUNDS)]
    base_s, help_s = (min(times) for times in zip(*spent[1:], strict=True))
    yield figure("inferno_help_cpu", help_s / base_s)
    whole, optimizing = asked()
    yield figure("optimize_one_reading_writing", whole / optimizing - 1.0)


def figure(name: str, value: float) -> dict[str, Any]:
    """Return one figure as it is printed."""
    return {"name": name, "value": round(value, 4), "unit": "ratio"}


def started(words: Sequence[str], environment: dict[str, str]) -> float:
    """Run *words*; return its CPU time [s]."""
    pid = os.posix_spawn(
        words[0],
        words,
        environment,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, used = os.wait4(pid, 0)
    assert status == 0, f"{words}: exit status {os.waitstatus_to_exitcode(status)}"
    return used.ru_utime + used.ru_stime


def asked() -> tuple[float, float]:
    """Return the CPU time of POST /optimizeOne with sample-data/large, and that of optimizing the
    same [s], with cold caches.
    """
    data = read_system(ROOT / "sample-data" / "large")
    rows = [server_row(server, with_cost=True) for server in data.servers.values()]
    body = json.dumps(optimize_message(data, rows)).encode()
    app = make_optimizer_app(settings=GREEDY)
    asyncio.run(post(app, body))
    whole, optimizing = [], []
    for _ in range(ASKED):
        begin_s = process_time()
        asyncio.run(post(app, body))
        middle_s = process_time()
        optimize(data, GREEDY)
        whole.append(middle_s - begin_s)
        optimizing.append(process_time() - middle_s)
    return min(whole), min(optimizing)


async def post(app: FastAPI, body: bytes) -> None:
    """Post *body* to /optimizeOne of *app*, without a server or a client around it."""
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/optimizeOne",
        "raw_path": b"/optimizeOne",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 3302),
    }
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    await app(scope, receive, send)
    assert statuses == [200], statuses
