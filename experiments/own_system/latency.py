"""Latency models of a system: fitted to what was measured as far as that tells them, else from data
sheets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from experiments.datasheet_files import perf_parms as sheet_parms
from experiments.own_system.points import POINTS_MIN, points_of, rows_of
from loop.signals.history import History
from twin.fit.datasheet import DataSheetModel
from twin.fit.exposure import rough_model
from twin.fit.fitting import FitResult, fit_logs
from twin.fit.replay import ReplicaLimits
from twin.fit.report import not_identified, perf_parms
from twin.fit.request_csv import RequestRows
from twin.fit.search import COEFFICIENTS, Expected, Family, prior_of
from twin.spec import LatencyModel, Scheduling, SpecError

Json = dict[str, Any]
# fitted: the measurements tell it; data sheet: they do not, and the data sheet holds the value;
# not identified: neither tells it, and only the latencies at the loads that were seen are right.
# kept: the data that an import begins with have it.
Source = Literal["fitted", "data sheet", "not identified", "kept"]

# ms a request, outside the engine: a proxy in front adds to it, and nothing takes away from it.
OVERHEAD = Expected(value=8.0, spread_below=4.0, spread_above=12.0)
# An engine that plans ahead must explain the latencies so much better to be taken for one.
BETTER = 0.9
# A fit that misses by more (E2E and 0.3 of TTFT) is begun once more elsewhere.
EXPLAINED = 0.03
# A coefficient is told if what fits nearly as well lies within so many times: closer than in a fit
# of logs, for nobody looks at the ranges of an import.
IDENTIFIED_WITHIN = 1.5
# A fit whose latencies miss by more is no model of this engine.
MISSES_MAX = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What is fitted together: servers of one model on one accelerator. sheet is None if there is
    no data sheet for it.
    """

    model: str
    accelerator: str
    servers: tuple[str, ...]
    limits: ReplicaLimits
    scheduling: Scheduling | None
    sheet: DataSheetModel | None
    token_cv: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The latency model of an engine, under the names of model-data.json, and how each coefficient
    is known. ranges hold what explains the measurements nearly as well. notes: what is not known,
    and why.
    """

    parms: Mapping[str, float | str]
    sources: Mapping[str, Source]
    ranges: Mapping[str, tuple[float, float]]
    points: int = 0
    e2e_misses: float | None = None
    ttft_misses: float | None = None
    notes: tuple[str, ...] = ()

    def as_json(self) -> Json:
        """Return it for a report."""
        return {
            "perfParms": dict(self.parms),
            "sources": dict(self.sources),
            "nearlyAsGood": {name: list(ends) for name, ends in self.ranges.items()},
            "operatingPoints": self.points,
            "e2eError": self.e2e_misses,
            "ttftError": self.ttft_misses,
            "notes": list(self.notes),
        }


def latency_of(engine: Engine, histories: Mapping[str, History] | None) -> Latency | None:
    """Return the latency model of *engine*, fitted to *histories* (None: nothing is to be fitted);
    None if nothing tells it.
    """
    if histories is None:
        return _from_sheet(engine, "nothing was to be fitted (--latency data-sheet)")
    own = [(name, histories[name]) for name in engine.servers if name in histories]
    points = points_of(own)
    if len(points) < POINTS_MIN:
        return _from_sheet(engine, _too_little(own, len(points)))
    try:
        result = fit_points(engine, rows_of(points, source=engine.model, token_cv=engine.token_cv))
    except SpecError as error:
        return _from_sheet(engine, f"its latencies make no fit: {error}")
    score = result.fitted_rows
    if engine.sheet is not None and score.e2e_mape > MISSES_MAX:
        return _from_sheet(
            engine,
            f"no latency model explains its latencies better than to {score.e2e_mape:.0%}: are the "
            "batch size, the tokens of an iteration and the KV cache right?",
        )
    unknown = not_identified(result, times=IDENTIFIED_WITHIN)
    other: Source = "data sheet" if engine.sheet is not None else "not identified"
    notes = []
    if unknown:
        held = (
            "the data sheet holds their values"
            if engine.sheet is not None
            else "without a data sheet only the latencies at the loads that were seen are right "
            "(--config tells the model)"
        )
        notes.append(f"{' and '.join(unknown)} of its latency model: {held}")
    if score.e2e_mape > MISSES_MAX:
        notes.append(f"why the fitted latency model misses its latencies by {score.e2e_mape:.0%}")
    return Latency(
        parms={
            **_rounded(perf_parms(result)),
            "overheadMs": round(result.overhead_ms, 2),
            "scheduling": result.family.scheduling,
        },
        sources={name: other if name in unknown else "fitted" for name, _, _ in COEFFICIENTS},
        ranges={
            name: (getattr(result.lowest, field), getattr(result.highest, field))
            for name, field, _ in COEFFICIENTS
        },
        points=len(points),
        e2e_misses=score.e2e_mape,
        ttft_misses=score.ttft_mape,
        notes=tuple(notes),
    )


def _too_little(histories: Sequence[tuple[str, History]], points: int) -> str:
    """Return why so few *points* were found."""
    whole = [told for _, each in histories if (told := each.over(slice(None))) is not None]
    lacking = [
        of
        for of, known in (
            ("TTFT", any(told.ttft_ms for told in whole)),
            ("ITL", any(told.itl_ms for told in whole)),
            ("prompt tokens", any(told.load.in_tokens for told in whole)),
            ("answer tokens", any(told.load.out_tokens for told in whole)),
        )
        if not known
    ]
    if not whole or len(lacking) == 4:
        return "its latencies were not measured"
    if lacking:
        return f"nobody measured its {' and '.join(lacking)}"
    return f"{points} steady loads were measured, and a fit takes {POINTS_MIN}"


def fit_points(engine: Engine, rows: RequestRows) -> FitResult:
    """Return the fit; if nobody says how the engine plans, that of the kind that explains more."""
    kinds: Sequence[Scheduling] = (
        (engine.scheduling,) if engine.scheduling is not None else ("sync", "async")
    )
    best: FitResult | None = None
    for kind in kinds:
        found = _fit_of_kind(engine, rows, kind)
        if best is None or _error(found) < BETTER * _error(best):
            best = found
    assert best is not None, "there is a kind"
    return best


def _fit_of_kind(engine: Engine, rows: RequestRows, kind: Scheduling) -> FitResult:
    """Return the fit that begins at the data sheet, or where that explains little, at what the
    decodes tell: far from its end a search may take all of them for outliers, and stay.
    """
    sheet = engine.sheet.latency_model if engine.sheet is not None else None

    def fit(start: LatencyModel) -> FitResult:
        return fit_logs(
            [rows],
            limits=engine.limits,
            prior=prior_of(sheet) if sheet is not None else None,
            with_overhead=True,
            families=[Family(p=1.0, launch_share=0.0, scheduling=kind)],
            start=start,
            overhead=OVERHEAD,
        )

    rough = rough_model(rows, limits=engine.limits)
    found = fit(sheet or rough)
    if sheet is None or _error(found) <= EXPLAINED:
        return found
    return min(found, fit(rough), key=_error)


def _error(result: FitResult) -> float:
    score = result.fitted_rows
    return score.e2e_mape + 0.3 * score.ttft_mape


def _from_sheet(engine: Engine, why: str) -> Latency | None:
    if engine.sheet is None:
        return None
    return Latency(
        parms={
            **_rounded(sheet_parms(engine.sheet, engine.scheduling or "async")),
            "overheadMs": engine.sheet.overhead_ms,
        },
        sources={name: "data sheet" for name, _, _ in COEFFICIENTS},
        ranges={},
        notes=(f"its latency model, which the data sheet stands in for: {why}",),
    )


def _rounded(parms: Mapping[str, float | str]) -> dict[str, float | str]:
    return {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in parms.items()
    }
