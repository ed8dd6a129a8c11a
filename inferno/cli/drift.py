"""`inferno drift`: the twin against reality, and which coefficient has moved."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inferno.cli.command import EXIT_OK, Command
from inferno.cli.runs import add_data_option, print_notes, working
from inferno.worlds.kube import make_prometheus, wait_for_cluster
from inferno.worlds.kube_options import (
    add_cluster_options,
    add_prometheus_options,
    add_speed_option,
)

if TYPE_CHECKING:
    from experiments.own_system.drift import Drift, EngineDrift, Seen, Window
    from loop.settings import Settings
    from loop.spec import SystemData

DAY_S, HOUR_S = 86_400.0, 3600.0
WINDOWS = 6  # of measurements that are shorter than so many days
MODEL_DATA, TWIN_DATA = "model-data.json", "twin-data.json"
DATES_S = 1e8  # times above are dates, those below seconds of a simulated run

TEXT = """\
Compare the latencies, the throughput and the start-up that were measured of
each server with what its data predict on the twin, window by window: since when
they differ, and what explains it: a coefficient of the latency model, a setting
of the engine, or nothing alone. Measured is what the records of a loop tell
(ours or the Go loop's), or Prometheus, of the Deployments of a cluster.

  inferno drift --data mine --records out/cycles.jsonl
  inferno drift --data mine --prometheus http://localhost:9090 --last 7d
  inferno drift --data mine --records cycles.jsonl --write
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    add_data_option(parser)
    parser.add_argument(
        "--records", type=Path, nargs="+", metavar="FILE", help="records of a loop, cycles.jsonl"
    )
    add_cluster_options(parser)
    add_prometheus_options(parser)
    add_speed_option(parser)
    parser.add_argument("--last", default="7d", metavar="TIME", help="how far back (default 7d)")
    parser.add_argument(
        "--until", metavar="DATE", help="where the past ends (default: now), as inferno import"
    )
    parser.add_argument(
        "--select",
        default="",
        metavar="LABELS",
        help="Deployments with these labels (key=value,…) instead of the managed ones",
    )
    parser.add_argument(
        "--window",
        metavar="TIME",
        help="length of a window (default: 1d, or a sixth of what was measured)",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"put a coefficient that has moved into {MODEL_DATA} of the data",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _run(options: Namespace) -> int:
    from experiments.own_system.drift import drift_of
    from experiments.own_system.importing import seconds
    from inferno.worlds.world import check_speed, data_directory
    from loop.schema.reading import read_system
    from loop.settings import read_settings
    from twin.spec import SpecError

    check_speed(options.speed)
    settings = read_settings(
        arguments={
            "data_path": options.data,
            "kubeconfig": options.kubeconfig,
            "namespaces": options.namespace,
            "prometheus_url": options.prometheus,
        }
    )
    directory, notes = data_directory(settings), list[str]()
    system = read_system(directory, warn=notes.append)
    if options.records:
        seen = _recorded(options.records, speed=options.speed)
    elif settings.prometheus_url:
        with working("asking Prometheus", quiet=options.quiet):
            seen = _asked(settings, options, system)
    else:
        raise SpecError("expected --records or --prometheus, found neither")
    times_s = [one.t_s for every in seen.values() for one in every]
    span_s = max(times_s) - min(times_s) if times_s else 0.0
    # Records are dated by a clock in whose second so many of a sped cluster pass.
    dated = bool(options.records) and max(times_s, default=0.0) > DATES_S
    speed = options.speed if dated else 1.0
    window_s = min(DAY_S, max(HOUR_S, span_s * speed / WINDOWS))
    if options.window is not None:
        window_s = seconds(options.window, option="window")
    with working("simulating what is to be expected", quiet=options.quiet):
        found = drift_of(seen, system, window_s=window_s / speed)
    notes += found.notes
    if not found.engines:
        notes.append(
            "nothing could be compared: no server of the data had a steady load with latencies"
        )
    if options.json:
        print(json.dumps(drift_json(found), indent=2, allow_nan=False))
    else:
        show(found, quiet=options.quiet)
    print_notes(notes, quiet=options.quiet)
    if options.write:
        write_moved(directory, found)
    return EXIT_OK


def _recorded(paths: Sequence[Path], *, speed: float) -> dict[str, list[Seen]]:
    from experiments.own_system.seen import seen_in_records
    from twin.datafile import unreadable
    from twin.spec import SpecError

    seen: dict[str, list[Seen]] = {}
    for path in paths:
        try:
            with path.open(encoding="utf-8-sig") as lines:
                found = seen_in_records(lines, source=str(path), speed=speed)
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(
                f"{path}: expected the records of a loop, found {unreadable(error)}"
            ) from None
        for name, every in found.items():
            seen.setdefault(name, []).extend(every)
    return seen


def _asked(settings: Settings, options: Namespace, system: SystemData) -> dict[str, list[Seen]]:
    """Return what Prometheus has of the servers of the cluster."""
    from experiments.own_system.cluster import facts_of, started_in_s
    from experiments.own_system.importing import (
        Asked,
        Period,
        asked_past,
        asked_servers,
        date_s,
        same_models,
        seconds,
    )
    from experiments.own_system.seen import seen_in_histories, with_engines
    from loop.backends.kube.client import KubeClient, connect
    from loop.clocks import MonotonicClock, wall_s

    asked = Asked(
        namespaces=settings.namespaces,
        select=options.select,
        speed=options.speed,
        period=Period(
            last_s=seconds(options.last, option="last"),
            end_s=None if options.until is None else date_s(options.until),
        ),
    )
    wait_for_cluster(settings.kubeconfig, wait_s=options.wait, command="drift")
    told: list[tuple[str, str]] = []
    with ExitStack() as stack:
        client = KubeClient(partial(connect, settings.kubeconfig), clock=MonotonicClock())
        stack.callback(client.close)
        prometheus = make_prometheus(settings, options)
        stack.callback(prometheus.close)
        now_s = wall_s()
        servers, _ = asked_servers(client, asked, now_s=now_s, told=told)
        measured, _ = asked_past(
            prometheus,
            servers,
            asked,
            same=same_models(client, servers),
            now_s=now_s,
            progress=_ignore,
        )
    print_notes([*(line for _, line in told), *measured.problems], quiet=options.quiet)
    took = {server.name: started_in_s(server, speed=asked.speed) for server in servers}
    # Labels name the engine of what a loop has moved; where none does, the data are right.
    told_of = [facts_of(server, nodes=()) for server in servers]
    return with_engines(seen_in_histories(measured.latencies, start_up_s=took), told_of, system)


def _ignore(_share: float) -> None:
    """Take the progress of a past that is read quickly."""


# -- telling


def show(found: Drift, *, quiet: bool) -> None:
    """Print the windows of each server, unless *quiet*, and a verdict for each engine."""
    from experiments.tables import plain_table, print_table, text_console

    headings = ["server", "from", "load a replica\n[1/min]"]
    headings += [f"{name}\n[ms]" for name in ("TTFT", "predicted", "ITL", "predicted")]
    headings += ["served\n[1/min]", "predicted", "start-up\n[s]", "predicted"]
    for engine in found.engines:
        if not quiet:
            cells = [_cells(window) for window in engine.windows]
            title = f"{engine.model} on {engine.accelerator}"
            print_table(text_console(), plain_table(title, headings, cells))
        print(verdict(engine))


def _cells(window: Window) -> list[str]:
    count = len(window.points)
    rate = sum(point.per_replica_rpm for point in window.points) / count
    ttft_ms, itl_ms = (
        sum(getattr(point.stretch, name) for point in window.points) / count
        for name in ("ttft_ms", "itl_ms")
    )
    ttft_predicted, itl_predicted = (
        sum(pair[place] for pair in window.predicted) / count for place in (0, 1)
    )
    figures = [rate, ttft_ms, ttft_predicted, itl_ms, itl_predicted, *window.throughput_rpm]
    return [
        window.server,
        time_text(window.t_s),
        *(_short(figure) for figure in figures),
        *("–" if figure is None else f"{figure:.0f}" for figure in window.start_up_s),
    ]


def verdict(engine: EngineDrift) -> str:
    """Return what is to be said of one engine, in a line."""
    off = f"TTFT {_off(engine.ttft_ratio)}, ITL {_off(engine.itl_ratio)}"
    name = f"{engine.model} on {engine.accelerator}"
    started = ""
    if engine.start_up_s is not None:
        started = "; pods start in {:.0f} s, by the data in {:.0f}".format(*engine.start_up_s)
    if engine.unsure:
        count = len(engine.windows)
        return (
            f"{name}: {off} of what is predicted, which may be chance, or bursts: {count} "
            f"window{'s' if count != 1 else ''} of measurements; look at a longer past{started}"
        )
    if engine.since_s is None:
        return f"{name}: no drift ({off} of what is predicted){started}"
    since = "from the beginning" if engine.from_start else f"since {time_text(engine.since_s)}"
    moved = engine.moved
    if moved is None:
        return (
            f"{name}: {since} {off}: nothing alone explains it, no coefficient and no setting of "
            f"the engine; measure and fit it again{started}"
        )
    line = (
        f"{name}: {since} {off}: {moved.name} moved, {_short(moved.before)} → {_short(moved.now)}"
    )
    if moved.factor is not None:
        line += f" (×{moved.factor:.3g})"
    if moved.others:
        line += f"; {' and '.join(moved.others)} would explain it nearly as well"
    refit = (
        "refit: --write"
        if moved.is_coefficient
        else f"if the engine says so too, put it into {TWIN_DATA}"
    )
    return f"{line}; {refit}{started}"


def _off(ratio: float) -> str:
    """Return how far off what is measured is; per cents of an overload are a number of no use."""
    return f"{ratio - 1.0:+.0%}" if ratio < 10.0 else f"×{ratio:,.0f}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10_000 else f"{value:.4g}"


def time_text(t_s: float) -> str:
    """Return a date, or the hour of a simulated run."""
    from loop.backends.metrics.past import date_text

    return date_text(t_s) if t_s >= DATES_S else f"hour {t_s / HOUR_S:g}"


def drift_json(found: Drift) -> dict[str, Any]:
    """Return the drift for programs."""
    return {
        "engines": [_engine_json(engine) for engine in found.engines],
        "notes": list(found.notes),
    }


def _engine_json(engine: EngineDrift) -> dict[str, Any]:
    moved = engine.moved
    return {
        "model": engine.model,
        "acc": engine.accelerator,
        "sinceS": engine.since_s,
        "fromStart": engine.from_start,
        "unsure": engine.unsure,
        "startUpS": None
        if engine.start_up_s is None
        else dict(zip(("measured", "predicted"), engine.start_up_s, strict=True)),
        "ttftRatio": engine.ttft_ratio,
        "itlRatio": engine.itl_ratio,
        "moved": None
        if moved is None
        else {
            "coefficient": moved.name,
            "before": moved.before,
            "now": moved.now,
            "factor": moved.factor,
            "others": list(moved.others),
        },
        "windows": [
            {
                "server": window.server,
                "tS": window.t_s,
                "ttftRatio": window.ratio("ttft"),
                "itlRatio": window.ratio("itl"),
                "throughputRpm": dict(
                    zip(("measured", "predicted"), window.throughput_rpm, strict=True)
                ),
                "startUpS": dict(zip(("measured", "predicted"), window.start_up_s, strict=True)),
            }
            for window in engine.windows
        ],
    }


# -- writing


def write_moved(directory: Path, found: Drift) -> None:
    """Put each coefficient that has moved into the latency model of its engine in *directory*."""
    from inferno.cli.fit import document_text
    from twin.datafile import read_json

    path = directory / MODEL_DATA
    document: dict[str, Any] = read_json(path)
    key = next(key for key in document if key.lower() == "models")
    written = 0
    for engine in found.engines:
        if engine.moved is None or not engine.moved.is_coefficient:
            continue
        for row in document[key]:
            if (_of(row, "name"), _of(row, "acc")) == (engine.model, engine.accelerator):
                _write_row(row, engine)
                written += 1
                print(
                    f"{path}: {engine.model} on {engine.accelerator}: {engine.moved.name} "
                    f"{engine.moved.now:.4g}"
                )
    if written:
        path.write_text(document_text(document, key), encoding="utf-8")
    else:
        print(f"{path}: nothing to write")


def _write_row(row: dict[str, Any], engine: EngineDrift) -> None:
    moved = engine.moved
    assert moved is not None, "something moved"
    parms = _of(row, "perfParms")
    if parms is None:  # as older files have them
        parms = {name: row.pop(_key(row, name)) for name in ("alpha", "beta")} | {"gamma": 0.0}
        row["perfParms"] = parms
    if moved.name == "overhead":
        parms[_key(parms, "overheadMs")] = float(f"{moved.now:.4g}")
        return
    # Alpha may be given in two parts.
    names = ("alpha", "a", "w", "expertsMs") if moved.name == "alpha" else (moved.name,)
    for name in names:
        place = _key(parms, name)
        if place in parms:
            parms[place] = float(f"{parms[place] * (moved.factor or 1.0):.4g}")


def _of(row: Mapping[str, Any], name: str) -> Any:
    return row.get(_key(row, name))


def _key(row: Mapping[str, Any], name: str) -> str:
    return next((key for key in row if key.lower() == name.lower()), name)


COMMAND = Command(
    name="drift",
    summary="the twin against reality, and what has moved",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
