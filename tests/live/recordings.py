"""What the existing components were recorded to say to each other, for tests that put ours in the
place of one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request

from loop.backends.kube import labels as names

Json = dict[str, Any]
Era = Literal["early", "late"]

# The recordings leave the static data out: they are those of the large sample of their time.
STATIC = {
    "early": ("open-early-v0.1.0.json", "sample-large-unl"),
    "late": ("open-optimizer-2.json", "sample-large"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """One cycle: what the optimizer was asked and answered, what the actuator was asked, and what
    it patched.
    """

    servers: list[Json]
    flags: Json
    allocations: Json
    update: Json
    patched: dict[str, tuple[str, str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One recording: the answer of the collector, two cycles, and the static data of then."""

    era: Era
    collected: Json
    cycles: list[Cycle]
    static: Json


def read_recording(folder: Path, era: Era) -> Recording:
    """Return the recording of *era* from *folder*."""
    rows = json.loads((folder / f"open-e2e-control-loop-{era}.json").read_text())
    (collected,) = (row[2] for row in rows if row[0] == "collector GET /collect")
    file, case_id = STATIC[era]
    (static,) = (
        case["system"]
        for case in json.loads((folder / file).read_text())["cases"]
        if case["id"] == case_id
    )
    places = [at for at, row in enumerate(rows) if row[0] == "optimizer POST"]
    cycles = []
    for at, until in zip(places, [*places[1:], len(rows)], strict=True):
        system, (update,) = (
            rows[at][2]["system"],
            (row for row in rows[at:until] if row[0] == "actuator POST"),
        )
        patches = [row for row in rows[at:until] if row[0] == "kube PATCH"]
        cycles.append(
            Cycle(
                servers=system["serverData"]["servers"],
                flags=system["optimizerData"],
                allocations=rows[at][4],
                update=update[2],
                patched={
                    row[1].rpartition("/")[2]: tuple(op["value"] for op in row[3])
                    for row in patches
                },
            )
        )
    return Recording(era=era, collected=collected, cycles=cycles, static=static)


def missing(found: Any, wanted: Any, *, place: str = "") -> str:
    """Return where *found* does not hold all that is *wanted*, "" where it does; it may hold more
    keys.
    """
    if isinstance(wanted, dict) and isinstance(found, dict):
        parts = (
            missing(found[key], wanted[key], place=f"{place}.{key}")
            if key in found
            else f"{place}.{key}: nothing"
            for key in wanted
        )
        return next(filter(None, parts), "")
    if isinstance(wanted, list) and isinstance(found, list) and len(found) == len(wanted):
        pairs = enumerate(zip(found, wanted, strict=True))
        return next(filter(None, (missing(a, b, place=f"{place}[{i}]") for i, (a, b) in pairs)), "")
    return (
        ""
        if found == wanted and type(found) is type(wanted)
        else f"{place}: {found!r} instead of {wanted!r}"
    )


def manifest(server: Json, place: Json) -> Json:
    """Return the Deployment that the collector was recorded to see as *server*."""
    current = server["currentAlloc"]
    load = current["load"]
    tokens = (
        {names.LOAD_TOKENS: load.get("avgLength")}
        if "avgLength" in load
        else {
            names.LOAD_IN_TOKENS: load["avgInTokens"],
            names.LOAD_OUT_TOKENS: load["avgOutTokens"],
        }
    )
    told = {
        names.MANAGED: "true",
        names.NAME: server["name"],
        names.MODEL: server["model"],
        names.CLASS: server["class"],
        names.ACCELERATOR: current["accelerator"],
        names.MAX_BATCH: current["maxBatch"] or "",
        names.LOAD_RPM: load["arrivalRate"],
        **tokens,
    }
    pods = {"app": place["name"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": place["name"],
            "namespace": place["space"],
            "labels": {key: str(value) for key, value in told.items()},
        },
        "spec": {
            "replicas": current["numReplicas"],
            "selector": {"matchLabels": pods},
            "template": {
                "metadata": {"labels": pods},
                "spec": {"containers": [{"name": "main", "image": "nginx"}]},
            },
        },
    }


class Existing:
    """The existing collector, optimizer and actuator as far as they were recorded; keeps what they
    are asked.
    """

    def __init__(self, recording: Recording) -> None:
        self.questions: list[Json] = []
        self.updates: list[Json] = []
        self._recording = recording

    def app(self) -> FastAPI:
        """Return the three as one service."""
        app = FastAPI()
        app.state.stop = lambda: None
        places = self._recording.collected["kube-resources"]

        @app.get("/collect")
        def collect() -> Json:
            # Servers go through a controller as they are: the second answer of the collector is in
            # the second question.
            return {
                "servers": self._recording.cycles[len(self.questions)].servers,
                "kube-resources": places,
            }

        @app.post("/optimizeOne")
        async def optimize_one(request: Request) -> Json:
            self.questions.append(await request.json())
            return self._recording.cycles[len(self.questions) - 1].allocations

        @app.post("/update")
        async def update(request: Request) -> str:
            self.updates.append(await request.json())
            return "Done"

        return app
