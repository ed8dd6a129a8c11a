"""Replicas that are slower than the data say."""

from __future__ import annotations

import json
from pathlib import Path

from experiments import RunConfig, run
from experiments.config import SAMPLE_DATA

TIMES = 1.4


def test_slo_sizes_by_what_replicas_are_seen_to_do(tmp_path: Path) -> None:
    """By the data alone a quarter of these requests misses its targets, while nothing waits."""
    rows = json.loads((SAMPLE_DATA / "small" / "model-data.json").read_text())["models"]
    engines = [
        {
            "model": row["name"],
            "acc": row["acc"],
            "perfParms": {key: TIMES * value for key, value in row["perfParms"].items()},
        }
        for row in rows
    ]
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"engines": engines}))
    config = RunConfig(
        data=SAMPLE_DATA / "small", truth=truth, scenario="steady", hours=0.5, policy="slo"
    )
    assert run(config).summary["attainment"] > 0.97
