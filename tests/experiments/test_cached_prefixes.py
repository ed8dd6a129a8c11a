"""What the engines' prefix caches find is seen by the loop, as it is on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments import RunConfig, run
from tests.loop.data_files import files, write

# Long prompts of which most is the same: what is found decides how many replicas it takes.
LOAD = {"arrivalRate": 600, "avgInTokens": 8000, "avgOutTokens": 20}


def cycles(
    folder: Path, *, share: float, trust: float = 0.0, engine: str = "plain"
) -> list[dict[str, Any]]:
    """Return what is seen of server "a", whose prefix cache finds *share*, and decided for it."""
    objects = files()
    server, idle = objects["server-data.json"]["servers"]
    server["currentAlloc"].update(numReplicas=6, load=LOAD)
    idle["currentAlloc"]["load"] = {**LOAD, "arrivalRate": 0}
    objects["capacity-data.json"]["count"][0]["count"] = 40
    objects["twin-data.json"] = {
        "servers": [{"name": name, "prefixShare": share} for name in ("a", "b")]
    }
    folder.mkdir()
    config = RunConfig(
        data=write(folder, objects),
        scenario="steady",
        hours=0.05,
        period_s=60.0,
        engine=engine,  # type: ignore[arg-type] # one of two words
        policy_options=(("prefix_cache_trust", trust),),
    )
    return [{one["name"]: one for one in cycle["servers"]} for cycle in run(config).cycles]


def seen(records: list[dict[str, Any]], name: str) -> list[float | None]:
    """Return the share that each of *records* tells of the server *name*."""
    return [servers[name]["prefixCacheHitShare"] for servers in records]


def test_records_tell_what_the_prefix_caches_found(tmp_path: Path) -> None:
    """In whole blocks of each prompt; of a server that nobody asked nothing is known."""
    found = cycles(tmp_path / "plain", share=0.93)
    assert seen(found, "a") == [pytest.approx(0.93, abs=0.002)] * 2
    assert seen(found, "b") == [None] * 2
    pytest.importorskip("numba", reason="the compiled engine needs the extra `fast`")
    assert seen(cycles(tmp_path / "fast", share=0.93, engine="fast"), "a") == seen(found, "a")


def test_what_is_trusted_to_be_cached_takes_no_replicas(tmp_path: Path) -> None:
    """Trust that does nothing, in silence, would be taken for an answer."""
    wary, trusting = (
        cycles(tmp_path / str(trust), share=0.93, trust=trust)[-1]["a"]["replicas"]
        for trust in (0.0, 1.0)
    )
    assert trusting < wary


def test_without_a_prefix_cache_no_share_is_told(tmp_path: Path) -> None:
    """Not 0: nothing was asked that could have been found."""
    assert seen(cycles(tmp_path / "none", share=0.0), "a") == [None] * 2
