"""Data of two of the small servers with few and long requests: what runs ask for stays the same,
and they are simulated in a tenth of the time.
"""

from __future__ import annotations

import json
from pathlib import Path

from experiments.config import SAMPLE_DATA

NAMES = ("Premium-llama_13b", "Free-Llama-3.1-8B")


def write_two_servers(folder: Path) -> Path:
    """Write the data into *folder* and return it. Both servers start with one replica, keep their
    accelerators, and are asked for four times as long answers a quarter as often.
    """
    for path in (SAMPLE_DATA / "small").glob("*.json"):
        (folder / path.name).write_text(path.read_text())
    servers = json.loads((folder / "server-data.json").read_text())["servers"]
    chosen = [row for row in servers if row["name"] in NAMES]
    for row in chosen:
        row["keepAccelerator"] = True
        row["currentAlloc"]["numReplicas"] = 1
        row["currentAlloc"]["load"]["arrivalRate"] /= 4
        row["currentAlloc"]["load"]["avgOutTokens"] *= 4
    (folder / "server-data.json").write_text(json.dumps({"servers": chosen}))
    twin = json.loads((folder / "twin-data.json").read_text())
    (folder / "twin-data.json").write_text(json.dumps({**twin, "servers": []}))
    return folder
