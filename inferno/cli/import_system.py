"""`inferno import`: a data directory and a load from a cluster and its Prometheus."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from inferno.cli.command import EXIT_OK, Command
from inferno.cli.runs import END_LINE, print_paths, working
from inferno.worlds.kube import make_prometheus, wait_for_cluster
from inferno.worlds.kube_options import (
    add_cluster_options,
    add_prometheus_options,
    add_speed_option,
)

if TYPE_CHECKING:
    from experiments.own_system.directory import Imported
    from experiments.own_system.known import Known
    from twin.fit.model_config import ModelFacts

TEXT = """\
Write a data directory from a cluster: its managed Deployments, or those with
labels that --select names, with their models, GPUs and batch sizes; latency
models, fitted to the latencies of the past as far as these tell them, else from
data sheets; and the load of the past as a scenario, requests and tokens of each
server by minute. What could not be found out is said, and written to import.md.
It changes nothing in the cluster. With --data a data directory is begun with:
its accelerators, prices, classes and latency models stay, and what the cluster
tells replaces the rest.

  inferno import --kubeconfig out/twin.kubeconfig \\
    --prometheus http://localhost:9090 --last 7d --out mine
  inferno import --select app=vllm --classes Premium=30/500 --out mine
  inferno import --data mine --prometheus http://localhost:9090 --out mine2
  inferno sim --data mine --scenario mine/trace.yaml
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    add_cluster_options(parser)
    add_prometheus_options(parser)
    add_speed_option(parser)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="begin with this data directory: its accelerators, classes and latency models stay",
    )
    parser.add_argument(
        "--last",
        default="7d",
        metavar="TIME",
        help="how far back: 7d (default), 36h, 90m",
    )
    parser.add_argument(
        "--until",
        metavar="DATE",
        help="where the past ends, such as 2026-11-28T06:00Z (default: now)",
    )
    parser.add_argument(
        "--step",
        type=float,
        metavar="S",
        help="seconds of a step of the load (default 60, more if the past is longer than 2 weeks)",
    )
    parser.add_argument(
        "--select",
        default="",
        metavar="LABELS",
        help="Deployments with these labels (key=value,…) instead of the managed ones",
    )
    parser.add_argument(
        "--classes",
        metavar="NAME[=ITL/TTFT],…",
        help="objectives of service classes [ms], the most important first (known: Premium, "
        "Bronze, Free, as inferno init has them)",
    )
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="MODEL=FILE",
        help="the config.json of a model, or a name of sample-data/models; may be repeated",
    )
    parser.add_argument(
        "--latency",
        choices=("measured", "data-sheet"),
        default="measured",
        help="latency models: fitted to what was measured, as far as that tells them (default), or "
        "of data sheets alone",
    )
    parser.add_argument(
        "--vllm",
        metavar="VERSION",
        help="version of vLLM (default: that of the image, else what explains the latencies)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/import"),
        metavar="DIR",
        help="where to write; new, or empty (default out/import)",
    )


def _run(options: Namespace) -> int:
    from experiments.own_system.importing import Asked, Period, date_s, read_system_of, seconds
    from experiments.own_system.writing import write_import
    from inferno.worlds.world import check_speed
    from loop.backends.kube.client import KubeClient, connect
    from loop.clocks import MonotonicClock, wall_s
    from loop.settings import read_settings
    from twin.spec import SpecError

    directory: Path = options.out
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise SpecError(f"{directory}: expected a new or an empty directory, found one in use")
    check_speed(options.speed)
    settings = read_settings(
        arguments={
            "kubeconfig": options.kubeconfig,
            "namespaces": options.namespace,
            "prometheus_url": options.prometheus,
        }
    )
    asked = Asked(
        namespaces=settings.namespaces,
        select=options.select,
        speed=options.speed,
        vllm=options.vllm,
        fit=options.latency == "measured",
        period=Period(
            last_s=seconds(options.last, option="last"),
            end_s=None if options.until is None else date_s(options.until),
            step_s=options.step,
        ),
    )
    known = _known(options)
    wait_for_cluster(settings.kubeconfig, wait_s=options.wait, command="import")
    with ExitStack() as stack:
        client = KubeClient(partial(connect, settings.kubeconfig), clock=MonotonicClock())
        stack.callback(client.close)
        prometheus = None
        if settings.prometheus_url:
            prometheus = make_prometheus(settings, options)
            stack.callback(prometheus.close)
        with working("reading the cluster", quiet=options.quiet):
            found = read_system_of(
                client,
                prometheus,
                asked,
                known=known,
                now_s=wall_s(),
                progress=partial(_progress, quiet=options.quiet),
            )
    if not found.files["server-data.json"]["servers"]:
        reasons = "; ".join(f"{of}: {line}" for of, line in found.unknown if "left out" in line)
        raise SpecError(
            "expected a Deployment whose model and GPUs can be found out, found none: "
            f"{shorten(reasons, 200, placeholder=' …')}"
        )
    lines = report(found)
    paths = write_import(found, directory, told=lines)
    print("\n".join(lines if not options.quiet else _unknown(found)))
    if options.verbose:
        print_paths(paths)
    scenario = f" --scenario {directory}/trace.yaml" if found.rates else ""
    print(f"wrote {len(paths)} files to {directory}; try: inferno sim --data {directory}{scenario}")
    return EXIT_OK


def report(found: Imported) -> list[str]:
    """Return what was found, and what was not."""
    servers = found.files["server-data.json"]["servers"]
    capacity = found.files["capacity-data.json"]["count"]
    gpus = ", ".join(f"{row['count']} {row['type']}" for row in capacity) or "none"
    lines = [f"from {found.measured.source}", "", "## Servers", ""]
    for row in servers:
        now = row["currentAlloc"]
        line = (
            f"- {row['name']}: {row['model']} ({row['class']}), {now['numReplicas']} × "
            f"{now['accelerator']}, batch {now['maxBatch']}"
        )
        figures = found.figures.get(row["name"])
        if figures is not None:
            load = figures.load
            line += (
                f"; {load.rate_rpm:.4g} requests/min of {_tokens(load.in_tokens)} + "
                f"{_tokens(load.out_tokens)} tokens"
            )
            if figures.ttft_ms is not None and figures.itl_ms is not None:
                p95 = {
                    of: f" (p95 {_ms(shares['p95'])})"
                    for of, shares in found.measured.percentiles_ms.get(row["name"], {}).items()
                }
                line += (
                    f", TTFT {_ms(figures.ttft_ms)}{p95.get('ttft', '')} ms, ITL "
                    f"{_ms(figures.itl_ms)}{p95.get('itl', '')} ms"
                )
        lines.append(line)
    lines += [f"- GPUs: {gpus}", ""]
    if found.kept:
        lines += [
            "## Kept from the data that were begun with",
            "",
            *(f"- {line}" for line in found.kept),
            "",
        ]
    lines += ["## Latency models", ""]
    for (model, accelerator), latency in found.latencies.items():
        told = ", ".join(
            f"{name} {latency.parms[name]:.4g} ({source})"
            for name, source in latency.sources.items()
            if name in latency.parms
        )
        line = f"- {model} on {accelerator}: {told}"
        if "overheadMs" in latency.parms:
            line += f", overhead {latency.parms['overheadMs']:.3g} ms"
        if latency.e2e_misses is not None and latency.ttft_misses is not None:
            line += (
                f"; at {latency.points} loads it misses E2E by {latency.e2e_misses:.1%} and TTFT "
                f"by {latency.ttft_misses:.1%}"
            )
        lines.append(line)
    return [*lines, "", *_unknown(found)]


def _tokens(mean: float) -> str:
    return f"{mean:.0f}" if mean else "unknown"


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100.0 else f"{value:.3g}"


def _unknown(found: Imported) -> list[str]:
    if not found.unknown:
        return ["## What could not be found out", "", "- nothing is missing"]
    lines = [f"- {of}: {line}" for of, line in found.unknown]
    return ["## What could not be found out", "", *lines]


def _known(options: Namespace) -> Known:
    from experiments.config import SAMPLE_DATA, shipped
    from experiments.own_system.base import read_base
    from experiments.own_system.known import Known
    from inferno.cli.datasheets import accelerators, find_model
    from inferno.cli.init import CLASSES, classes_of
    from twin.spec import SpecError

    chosen: dict[str, ModelFacts] = {}
    for given in options.config:
        model, equals, file = given.partition("=")
        if not (equals and model and file):
            raise SpecError(f"config: expected MODEL=FILE, found {given[:60]!r}")
        chosen[model] = find_model(file)
    classes: Mapping[str, tuple[float, float, int]] = CLASSES
    if options.classes:
        classes = {**CLASSES, **classes_of(options.classes)}
    return Known(
        sheets=accelerators(),
        configs={
            path.stem: find_model(path.stem) for path in sorted((SAMPLE_DATA / "models").glob("*"))
        },
        config_of=chosen,
        classes=classes,
        base=None if options.data is None else read_base(shipped(options.data)),
    )


def _progress(share: float, *, quiet: bool) -> None:
    if not quiet and sys.stderr.isatty():
        line = f"asking Prometheus: {share:4.0%}" if share < 1.0 else "fitting latency models …"
        print(f"{END_LINE}{line}", end="", file=sys.stderr, flush=True)


COMMAND = Command(
    name="import",
    summary="a data directory and a load from a cluster and its Prometheus",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
