"""The data directory of an imported system as files: its data, its load as a scenario, what was
measured, and a report on what could not be found out.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.own_system.points import LATENCIES, PERCENTILES
from experiments.rates_file import write_rates

if TYPE_CHECKING:
    from experiments.own_system.directory import Imported

LOAD_CSV, MEASURED_CSV, TRACE_YAML = "load.csv", "measured.csv", "trace.yaml"
IMPORT_JSON, IMPORT_MD = "import.json", "import.md"


def write_import(found: Imported, directory: Path, *, told: Sequence[str]) -> list[Path]:
    """Write everything to *directory*, which is made; return the files. *told* are the lines of the
    report.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = []

    def write(name: str, text: str) -> None:
        path = directory / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)

    for name, content in found.files.items():
        write(name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    if found.rates:
        write_rates(directory / LOAD_CSV, found.rates)
        paths.append(directory / LOAD_CSV)
        write(TRACE_YAML, trace_text(found))
    if found.figures:
        write(MEASURED_CSV, measured_text(found))
    report = {
        "source": found.measured.source,
        "latencyModels": [
            {"model": model, "acc": accelerator, **latency.as_json()}
            for (model, accelerator), latency in found.latencies.items()
        ],
        "kept": list(found.kept),
        "unknown": [{"of": of, "what": line} for of, line in found.unknown],
    }
    write(IMPORT_JSON, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    write(IMPORT_MD, "# Import\n\n" + "\n".join(told) + "\n")
    return paths


def measured_text(found: Imported) -> str:
    """Return what was measured of each server over the whole past, a row each: means, and
    percentiles where its engine has histograms.
    """
    known = found.measured.percentiles_ms
    columns = [
        (of, share)
        for of in LATENCIES
        for share in PERCENTILES
        if any(of in of_server for of_server in known.values())
    ]
    heads = ["server", "rate_rpm", "in_tokens", "out_tokens", "ttft_ms", "itl_ms"]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*heads, *(f"{of}_ms_{share}" for of, share in columns)])
    for server in (row["name"] for row in found.files["server-data.json"]["servers"]):
        one, own = found.figures.get(server), known.get(server, {})
        if one is None:
            continue
        load = one.load
        # Tokens that nobody counted are 0.
        tokens = [load.in_tokens or None, load.out_tokens or None]
        figures = [load.rate_rpm, *tokens, one.ttft_ms, one.itl_ms]
        figures += [own.get(of, {}).get(share) for of, share in columns]
        table.writerow([server, *("" if each is None else f"{each:.5g}" for each in figures)])
    return text.getvalue()


def trace_text(found: Imported) -> str:
    """Return the scenario of the load."""
    one = next(iter(found.rates.values()))
    step_s = float(one.times_s[1] - one.times_s[0])
    return "\n".join(
        [
            "# The load that was measured: inferno sim --data . --scenario trace.yaml",
            f"description: {json.dumps(found.measured.source)}",
            "alpha: 0.0",
            f"interval_s: {step_s:g}",
            f"hours: {one.end_s / 3600.0:.6g}",
            "load:",
            f"  - {{rates: {{file: {LOAD_CSV}}}}}",
            "",
        ]
    )
