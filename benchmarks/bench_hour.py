"""What whole runs cost: an hour, a day and a week of a system, a thousand servers, and the command.

All are of the frozen copy of the large system (benchmarks/data), or of sample-data/small, scenario
steady, a cycle a minute, with records and scores. Each is a process of its own.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LARGE, SMALL = ROOT / "benchmarks" / "data" / "large", ROOT / "sample-data" / "small"
ROUNDS = 2
SERVERS = 1000
ENGINES = ("fast", "plain")

RUN = """
import json, sys, time
from pathlib import Path
from experiments import RunConfig, run
words = json.loads(sys.argv[1])
words["data"] = Path(words["data"])
begin_s = time.process_time()
result = run(RunConfig(**words, scenario="steady", period_s=60.0))
print(json.dumps([time.process_time() - begin_s, result.requests["id"].size]))
"""


def figures() -> Iterator[dict[str, Any]]:
    """Yield the figures: those of the compiled engine, and where it says so of the plain one."""
    in_process("fast", LARGE, hours=0.02)  # compiles
    for engine in ENGINES:
        cpu_s, requests = min(in_process(engine, LARGE, hours=1.0) for _ in range(ROUNDS))
        yield figure("hour_large_cpu_s", engine, cpu_s, "s")
        yield figure("requests_per_cpu_s_hour", engine, requests / cpu_s, "requests/s")
    for engine in ENGINES:
        command_s = min(command(engine, LARGE, hours=1.0)[0] for _ in range(ROUNDS))
        yield figure("sim_command_cpu_s", engine, command_s, "s")
    with tempfile.TemporaryDirectory() as folder:
        many_servers(Path(folder))
        for engine in ENGINES:
            cpu_s, requests = in_process(engine, Path(folder), hours=0.1, policy="static")
            yield figure("servers_1000_us_per_request", engine, 1e6 * cpu_s / requests, "us")
    cpu_s, rss_mb = command("fast", LARGE, hours=24.0)
    yield figure("day_large_cpu_s", "fast", cpu_s, "s")
    yield figure("day_large_rss_mb", "fast", rss_mb, "MB")
    yield figure("week_small_rss_mb", "fast", command("fast", SMALL, hours=168.0)[1], "MB")


def figure(name: str, engine: str, value: float, unit: str) -> dict[str, Any]:
    """Return one line of the output; the name is that of the compiled engine."""
    own = name if engine == "fast" else f"{name}_{engine}"
    return {"name": own, "value": float(f"{value:.4g}"), "unit": unit}


def in_process(engine: str, data: Path, **settings: Any) -> tuple[float, int]:
    """Run in a fresh process; return its CPU time from reading the data to the scores [s], and the
    requests.
    """
    words = json.dumps({"data": str(data), "engine": engine, **settings})
    out = _spent([sys.executable, "-c", RUN, words])[2]
    cpu_s, requests = json.loads(out)
    return cpu_s, requests


def command(engine: str, data: Path, *, hours: float) -> tuple[float, float]:
    """Run `inferno sim` as a process; return its CPU time [s] and its memory at most [MB]."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--data", str(data), "--scenario", "steady", "--period", "60", "--quiet"]
        words += ["--hours", str(hours), "--engine", engine, "--out", f"{folder}/run"]
        cpu_s, rss_mb, _ = _spent([sys.executable, "-m", "inferno", "sim", *words])
    return cpu_s, rss_mb


def many_servers(folder: Path) -> None:
    """Write the large system with a thousand servers and as much more capacity into *folder*."""
    for path in LARGE.glob("*.json"):
        (folder / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    servers = json.loads((LARGE / "server-data.json").read_text(encoding="utf-8"))
    rows = servers["servers"]
    servers["servers"] = [
        {**rows[number % len(rows)], "name": f"server-{number:04d}"} for number in range(SERVERS)
    ]
    (folder / "server-data.json").write_text(json.dumps(servers), encoding="utf-8")
    # It names servers that are no more; what it says of engines stays.
    twin = json.loads((folder / "twin-data.json").read_text(encoding="utf-8"))
    twin.pop("servers", None)
    (folder / "twin-data.json").write_text(json.dumps(twin), encoding="utf-8")
    capacity = json.loads((LARGE / "capacity-data.json").read_text(encoding="utf-8"))
    for row in capacity["count"]:
        row["count"] *= 1 + SERVERS // len(rows)
    (folder / "capacity-data.json").write_text(json.dumps(capacity), encoding="utf-8")


def _spent(words: list[str]) -> tuple[float, float, str]:
    """Run *words*; return CPU time [s], the most memory it had [MB], and what it printed."""
    with tempfile.TemporaryFile() as told:
        pid = os.posix_spawn(
            words[0],
            words,
            # As where it is installed: the sources are compiled once, by the first process.
            {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""},
            file_actions=[(os.POSIX_SPAWN_DUP2, told.fileno(), 1)],
        )
        _, status, used = os.wait4(pid, 0)
        told.seek(0)
        out = told.read().decode()
    assert status == 0, f"{words}: exit status {os.waitstatus_to_exitcode(status)}"
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024.0, out
