"""From the facts of a cluster to the contents of a data directory: the rows of its files, its load,
and what could not be found out. Pure; writing.py makes the files.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from emulator.rates import Rates
from experiments.datasheet_files import (
    Tokens,
    accelerator_row,
    engine_row,
    max_batch_of,
    model_row,
    smallest_engine,
    start_up_row,
)
from experiments.own_system.base import Base
from experiments.own_system.cluster import (
    BATCH,
    BUDGET,
    GPUS,
    RUNS_ON,
    START_UP,
    VERSION,
    Facts,
)
from experiments.own_system.known import Known, find_config, find_sheet
from experiments.own_system.latency import Engine, Latency, latency_of
from experiments.own_system.load import NOTHING, rates_of
from loop.backends.metrics.past import date_text
from loop.signals.history import History, Stretch
from loop.spec import TOKEN_CV, Load
from twin.fit.datasheet import Accelerator, DataSheetModel, Dtype, estimate
from twin.fit.replay import ReplicaLimits
from twin.spec import Scheduling

Json = dict[str, Any]

UNKNOWN_START_UP_S = 60.0
UNKNOWN_PRICE_CENTS = 200.0
BLOCK = 16
ASSUMED_LOAD = Load(rate_rpm=60.0, in_tokens=512.0, out_tokens=256.0)
# Objectives of a class that nobody tells: those of a known one, else these (ITL, TTFT [ms]).
UNKNOWN_TARGETS = (120.0, 3000.0)
PRIORITY_UNKNOWN = 100
# Objectives of a class that has none yet.
_SLOW = {"slo-itl": UNKNOWN_TARGETS[0], "slo-ttft": UNKNOWN_TARGETS[1]}
# Lines on what a data directory tells of a server whose model it knows on its accelerator.
_TOLD_BY_BASE = (GPUS, BATCH, BUDGET, RUNS_ON, START_UP, VERSION)
ITS_MODEL = "which model it serves"
CACHED_MIN = 0.01  # of prompt tokens, below which a prefix cache found nothing to speak of


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The past of the servers, over which time, and what Prometheus did not tell. variations are
    the coefficients of variation of token counts, and percentiles_ms those of latencies by latency,
    of those servers of which they are known. engines are the histories of the pods that run the
    engine of now, of servers that ran others before, and batches the largest batch size that these
    had.
    """

    histories: Mapping[str, History]
    engines: Mapping[str, History] = field(default_factory=dict)
    batches: Mapping[str, int] = field(default_factory=dict)
    source: str
    problems: tuple[str, ...] = ()
    variations: Mapping[str, float] = field(default_factory=dict)
    percentiles_ms: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)

    @property
    def latencies(self) -> Mapping[str, History]:
        """Return the histories whose latencies are those of the engines of now."""
        return {**self.histories, **self.engines}


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """The files of a data directory, the load, the latency model of each engine, and what could not
    be found out, by whom it concerns. kept are lines on what was left as it was, of the data that
    the import began with.
    """

    files: Mapping[str, Json]
    rates: Mapping[str, Rates]
    latencies: Mapping[tuple[str, str], Latency]
    figures: Mapping[str, Stretch]
    unknown: tuple[tuple[str, str], ...]
    measured: Measured
    kept: tuple[str, ...] = ()


def imported(
    facts: Sequence[Facts],
    *,
    capacity: Mapping[str, int],
    known: Known,
    measured: Measured,
    fit: bool = True,
) -> Imported:
    """Return the data directory of the servers *facts* on *capacity* GPUs by type. Without *fit*
    latency models are those of data sheets.

    A server that cannot be described (no model, no accelerator, no latency model) is left out, and
    told.
    """
    maker = _Maker(facts, capacity=capacity, known=known, measured=measured, fit=fit)
    return maker.made()


class _Maker:
    """Gathers the rows of all files, and what is not known."""

    def __init__(
        self,
        facts: Sequence[Facts],
        *,
        capacity: Mapping[str, int],
        known: Known,
        measured: Measured,
        fit: bool,
    ) -> None:
        self._fit = fit
        self._facts = [_of_base(one, known.base) for one in facts] if known.base else facts
        self._capacity = capacity
        self._known = known
        self._base = known.base or Base(name="")
        self._measured = measured
        self._unknown: list[tuple[str, str]] = []
        self._figures = {
            name: stretch
            for name, history in measured.histories.items()
            if (stretch := history.over(slice(None))) is not None
        }
        self._accelerators = {name: dict(row) for name, row in self._base.accelerators.items()}
        self._models = {key: dict(row) for key, row in self._base.models.items()}
        self._engines = {key: dict(row) for key, row in self._base.engines.items()}
        self._latencies: dict[tuple[str, str], Latency] = {}

    def made(self) -> Imported:
        names = {one.name for one in self._facts}
        for line in self._measured.problems:
            # Of a server it stands with what else is not known of that, once for all that have it.
            of, _, what = line.partition(": ")
            self._unknown.append((of, what) if of in names else ("cluster", line))
        pairs: dict[tuple[str, str], list[Facts]] = defaultdict(list)
        for one in self._facts:
            self._unknown += [(one.name, line) for line in one.unknown]
            lacks = [
                what for what, told in ((ITS_MODEL, one.model), (RUNS_ON, one.type)) if not told
            ]
            if lacks:
                self._unknown.append((one.name, f"{' and '.join(lacks)}, so it is left out"))
            else:
                pairs[one.model, one.accelerator].append(one)
        kept = [one for pair in pairs.values() if self._pair(pair) for one in pair]
        kept.sort(key=self._facts.index)
        self._others(kept)
        rates, files = self._rates(kept), self._files(kept)
        return Imported(
            files=files,
            rates=rates,
            latencies=self._latencies,
            figures=self._figures,
            unknown=_by_line(self._unknown),
            measured=self._measured,
            kept=self._kept(kept),
        )

    def _kept(self, servers: Sequence[Facts]) -> tuple[str, ...]:
        base = self._base
        if not base.name:
            return ()
        same = [one.name for one in servers if one.name in base.servers]
        gone = [name for name in base.servers if name not in same]
        lines = [
            f"accelerators and their prices: {', '.join(base.accelerators)}",
            f"service classes and their objectives: {', '.join(base.classes)}",
            f"{len(base.models)} latency models (inferno drift says whether they still hold)",
        ]
        if same:
            lines.append(f"what is not asked of a cluster of {', '.join(same)}")
        if gone:
            more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
            lines.append(
                f"nothing of {', '.join(gone[:3])}{more}: no such servers are in the cluster"
            )
        return tuple(lines)

    # -- engines

    def _pair(self, servers: Sequence[Facts]) -> bool:
        """Add what a model on an accelerator is; tell whether it could be found out."""
        one = servers[0]
        if (one.model, one.accelerator) in self._base.models:
            self._pair_of_base(servers)
            return True
        sheet = self._sheet(one)
        kv_tokens = min((each.kv_tokens for each in servers if each.kv_tokens), default=None)
        if kv_tokens is None and sheet is not None and sheet.kv_tokens:
            kv_tokens = sheet.kv_tokens
            self._about(servers, f"its KV cache: {kv_tokens:,} tokens by the data sheet")
        elif kv_tokens is None:
            self._about(servers, "its KV cache: taken for unlimited")
        max_batch = max(each.max_batch for each in servers)
        had = [self._measured.batches.get(each.name, 0) for each in servers]
        latency = latency_of(
            Engine(
                model=one.model,
                accelerator=one.accelerator,
                servers=tuple(each.name for each in servers),
                limits=ReplicaLimits(
                    max_batch=max(max_batch, *had),
                    token_budget=one.token_budget,
                    kv_tokens=kv_tokens,
                    tokens_per_step=self._tokens_per_step(servers),
                ),
                scheduling=one.scheduling,
                sheet=sheet,
                token_cv=self._variation(servers),
            ),
            self._measured.latencies if self._fit else None,
        )
        if latency is None:
            self._about(
                servers, f"{self._lacks_sheet(one)} and too little was measured; it is left out"
            )
            return False
        for note in latency.notes:
            self._about(servers, note)
        key = (one.model, one.accelerator)
        self._latencies[key] = latency
        self._accelerator(one)
        tokens = self._tokens(servers)
        unit = self._accelerators[one.accelerator]
        self._models[key] = {
            "name": one.model,
            "acc": one.accelerator,
            "accCount": max(one.gpus // unit["multiplicity"], 1),
            "maxBatchSize": max_batch,
            "atTokens": max(int(tokens[1]), 1),
            "perfParms": dict(latency.parms),
        }
        took = [each.start_up_s for each in servers if each.start_up_s is not None]
        start_up: Json = {"meanS": UNKNOWN_START_UP_S, "cv": 0.15}
        if took:
            start_up["meanS"] = round(sum(took) / len(took), 1)
        elif sheet is not None:
            start_up = start_up_row(sheet)
        self._engines[key] = {
            "model": one.model,
            "acc": one.accelerator,
            **({"kvTokens": kv_tokens} if kv_tokens is not None else {}),
            "blockSize": BLOCK,
            "maxNumBatchedTokens": one.token_budget,
            "startUp": start_up,
            **self._speculation(servers),
        }
        return True

    def _pair_of_base(self, servers: Sequence[Facts]) -> None:
        """Put what the cluster tells of an engine into what the base says of it."""
        one = servers[0]
        key = (one.model, one.accelerator)
        parms = self._models[key]["perfParms"]
        self._latencies[key] = Latency(
            parms={name: value for name, value in parms.items() if value is not None},
            sources=dict.fromkeys(("alpha", "beta", "gamma"), "kept"),
            ranges={},
        )
        engine = self._engines.setdefault(key, {"model": one.model, "acc": one.accelerator})
        kv_tokens = min((each.kv_tokens for each in servers if each.kv_tokens), default=None)
        if kv_tokens is not None:
            engine["kvTokens"] = kv_tokens
        engine.update(self._speculation(servers))
        took = [each.start_up_s for each in servers if each.start_up_s is not None]
        if took:
            said = engine.get("startUp") or {"cv": 0.15}
            engine["startUp"] = {**said, "meanS": round(sum(took) / len(took), 1)}

    def _sheet(self, one: Facts) -> DataSheetModel | None:
        config = find_config(one.model, self._known)
        accelerator = find_sheet(one.type, self._known.sheets)
        if config is None or accelerator is None:
            return None
        if config.name.lower() != one.model.lower():
            self._unknown.append((one.name, f"its architecture: taken for that of {config.name}"))
        fp8 = "fp8" in one.model.lower()
        return estimate(
            config,
            accelerator,
            tp=one.gpus,
            dtype="fp8" if fp8 else None,
            max_batch=one.max_batch,
            token_budget=one.token_budget,
        )

    def _lacks_sheet(self, one: Facts) -> str:
        """Return why there is no data sheet of *one*, and what to do about it."""
        if find_sheet(one.type, self._known.sheets) is None:
            return (
                f"its latency model: there is no data sheet of {one.type} GPUs (--data DIR, a "
                "data directory that knows it on them, would do)"
            )
        return (
            f"its latency model: no config of this name is known (give --config {one.model}=FILE)"
        )

    def _accelerator(self, one: Facts) -> None:
        """Add the accelerator of a server, under its name."""
        if one.accelerator in self._accelerators:
            return
        units = re.match(r"(\d+)x", one.accelerator)
        gpus = int(units[1]) if units else 1
        sheet = find_sheet(one.type, self._known.sheets)
        if sheet is not None:
            row = accelerator_row(sheet, name=one.accelerator, gpus=gpus)
            row["type"] = one.type
        else:
            row = {
                "name": one.accelerator,
                "type": one.type,
                "multiplicity": gpus,
                "cost": gpus * UNKNOWN_PRICE_CENTS,
            }
            self._unknown.append(
                (one.type, f"its price: {UNKNOWN_PRICE_CENTS:g} cents/h a GPU is assumed")
            )
        self._accelerators[one.accelerator] = row

    def _others(self, kept: Sequence[Facts]) -> None:
        """Add what else the models could run on in this cluster, by data sheets."""
        for kind, count in self._capacity.items():
            sheet = find_sheet(kind, self._known.sheets)
            if sheet is None:
                continue
            of_base = {model for model, _ in self._base.models}
            for model in dict.fromkeys(one.model for one in kept if one.model not in of_base):
                if any(
                    key[0] == model and self._accelerators[key[1]]["type"] == kind
                    for key in self._models
                ):
                    continue
                self._other(model, kind, sheet, count, [one for one in kept if one.model == model])

    def _other(
        self, model: str, kind: str, sheet: Accelerator, count: int, servers: Sequence[Facts]
    ) -> None:
        config, tokens = find_config(model, self._known), self._tokens(servers)
        if config is None:
            return
        dtype: Dtype | None = "fp8" if "fp8" in model.lower() else None
        engine = smallest_engine(config, sheet, count, tokens=tokens, dtype=dtype)
        if engine is None:
            return
        name = kind if engine.tp == 1 else f"{engine.tp}x{kind}"
        if name not in self._accelerators:
            row = accelerator_row(sheet, name=name, gpus=engine.tp)
            self._accelerators[name] = {**row, "type": kind}
        scheduling: Scheduling = servers[0].scheduling or "async"
        of_unit = {"name": model, "acc": name}
        per_unit = max(engine.tp // self._accelerators[name]["multiplicity"], 1)
        self._models[model, name] = {
            **model_row(engine, tokens, scheduling),
            **of_unit,
            "accCount": per_unit,
            "maxBatchSize": min(max_batch_of(engine, tokens), max(s.max_batch for s in servers)),
        }
        self._engines[model, name] = {**engine_row(engine), "model": model, "acc": name}

    def _tokens(self, servers: Sequence[Facts]) -> Tokens:
        """Return the mean tokens of a request of *servers*."""
        loads = [self._figures[one.name].load for one in servers if one.name in self._figures]

        def mean(tokens: Sequence[float], otherwise: float) -> float:
            # A server whose tokens nobody counted says nothing of those of the others.
            told = [(load.rate_rpm, n) for load, n in zip(loads, tokens, strict=True) if n]
            requests = sum(rate for rate, _ in told)
            return sum(rate * n for rate, n in told) / requests if requests else otherwise

        return (
            mean([load.in_tokens for load in loads], ASSUMED_LOAD.in_tokens),
            mean([load.out_tokens for load in loads], ASSUMED_LOAD.out_tokens),
        )

    def _variation(self, servers: Sequence[Facts]) -> float:
        known = self._measured.variations
        found = [known.get(one.name, TOKEN_CV) for one in servers]
        return sum(found) / len(found)

    def _tokens_per_step(self, servers: Sequence[Facts]) -> float:
        """Return what a step adds to an answer of *servers*, by their tokens."""
        figures = [self._figures[one.name] for one in servers if one.name in self._figures]
        tokens = [one.load.rate_rpm * one.load.out_tokens for one in figures]
        if not any(tokens):
            return 1.0
        steps = sum(
            n / (one.tokens_per_step or 1.0) for n, one in zip(tokens, figures, strict=True)
        )
        return round(sum(tokens) / steps, 2)

    def _speculation(self, servers: Sequence[Facts]) -> Json:
        per_step = self._tokens_per_step(servers)
        return {"tokensPerStep": per_step} if per_step > 1.0 else {}

    def _about(self, servers: Sequence[Facts], line: str) -> None:
        self._unknown += [(one.name, line) for one in servers]

    # -- load

    def _rates(self, kept: Sequence[Facts]) -> dict[str, Rates]:
        found = {}
        for one in kept:
            history = self._measured.histories.get(one.name)
            if history is None:
                continue
            found[one.name] = rates_of(history)
            if not history.known.any():
                self._unknown.append((one.name, "its load: no pod of it was measured, 0 is taken"))
                continue
            for begin_s, end_s in history.holes():
                minutes = (end_s - begin_s) / 60.0
                self._unknown.append(
                    (
                        one.name,
                        f"its load from {date_text(begin_s)} on for {minutes:g} min, in which none "
                        "of its pods was scraped (there may have been none): the mean rate beside "
                        "that is taken",
                    )
                )
            load = self._figures[one.name].load
            for tokens, whose, taken in (
                (load.in_tokens, "prompts", NOTHING[0]),
                (load.out_tokens, "answers", NOTHING[1]),
            ):
                if not tokens:
                    self._unknown.append(
                        (one.name, f"the tokens of its {whose}: {taken:g} is taken")
                    )
        for name in [name for name in found if name not in self._measured.variations]:
            self._unknown.append(
                (
                    name,
                    f"how its tokens vary about their means: a coefficient of variation of "
                    f"{TOKEN_CV:g} is assumed (tokenCv in twin-data.json)",
                )
            )
        return found

    # -- files

    def _files(self, kept: Sequence[Facts]) -> dict[str, Json]:
        kinds = {row["type"] for row in self._accelerators.values()}
        in_use = {
            kind: sum(one.gpus * one.replicas for one in kept if one.type == kind)
            for kind in sorted(kinds)
        }
        # The nodes tell what there is; if none can be read, what the import began with holds.
        told = self._capacity or self._base.capacity
        for kind in sorted({one.type for one in kept} - told.keys()):
            self._unknown.append(
                (
                    kind,
                    f"how many GPUs there are: the {in_use[kind]} that its servers have are taken",
                )
            )
        capacity = {**in_use, **{kind: count for kind, count in told.items() if kind in kinds}}
        return {
            "accelerator-data.json": {"accelerators": list(self._accelerators.values())},
            "capacity-data.json": {
                "count": [{"type": kind, "count": count} for kind, count in capacity.items()]
            },
            "model-data.json": {"models": list(self._models.values())},
            "serviceclass-data.json": {"serviceClasses": self._classes(kept)},
            "optimizer-data.json": dict(self._base.optimizer)
            or {
                "optimizer": {
                    "unlimited": False,
                    "saturationPolicy": "PriorityRoundRobin",
                    "delayedBestEffort": False,
                }
            },
            "server-data.json": {"servers": [self._server(one) for one in kept]},
            "twin-data.json": self._twin(kept),
        }

    def _classes(self, kept: Sequence[Facts]) -> list[Json]:
        rows = [dict(row) for row in self._base.classes.values()]
        of_base = {row["name"]: row for row in rows}
        for name in dict.fromkeys(one.service_class for one in kept):
            models = dict.fromkeys(one.model for one in kept if one.service_class == name)
            if name in of_base:
                self._targets(of_base[name], models)
                continue
            told = self._known.classes.get(name)
            if told is None:
                self._unknown.append(
                    (
                        name,
                        f"its objectives: ITL {UNKNOWN_TARGETS[0]:g} ms and TTFT "
                        f"{UNKNOWN_TARGETS[1]:g} ms are assumed (--classes {name}=ITL/TTFT)",
                    )
                )
            itl, ttft, priority = told or (*UNKNOWN_TARGETS, PRIORITY_UNKNOWN)
            targets = [{"model": model, "slo-itl": itl, "slo-ttft": ttft} for model in models]
            rows.append({"name": name, "priority": priority, "modelTargets": targets})
        return rows

    def _targets(self, row: Json, models: Iterable[str]) -> None:
        """Add the objectives of those of *models* of which the class *row* has none: its first."""
        targets = list(row.get("modelTargets") or ())
        known = {one["model"] for one in targets}
        for model in models:
            if model in known:
                continue
            like = targets[0] if targets else dict(_SLOW)
            as_whose = (
                f"those of {targets[0]['model']}" if targets else "ITL and TTFT of a slow class"
            )
            self._unknown.append((row["name"], f"its objectives for {model}: {as_whose} are taken"))
            targets.append({**like, "model": model})
        row["modelTargets"] = targets

    def _server(self, one: Facts) -> Json:
        unit = self._accelerators[one.accelerator]
        count = self._models[one.model, one.accelerator]["accCount"]
        figures = self._figures.get(one.name)
        current: Json = {
            "accelerator": one.accelerator,
            "numReplicas": one.replicas,
            "maxBatch": one.max_batch,
            "cost": unit["cost"] * count * one.replicas,
        }
        load = self._load(one, figures)
        current["load"] = {
            "arrivalRate": round(load.rate_rpm, 3),
            "avgInTokens": round(load.in_tokens, 1),
            "avgOutTokens": round(load.out_tokens, 1),
        }
        bounds: Json = {"minNumReplicas": one.replicas_min}
        if one.replicas_max is not None:
            bounds["maxNumReplicas"] = one.replicas_max
        return {
            "keepAccelerator": False,
            **self._base.servers.get(one.name, {}),
            "name": one.name,
            "class": one.service_class,
            "model": one.model,
            **bounds,
            "maxBatchSize": one.max_batch,
            "currentAlloc": current,
        }

    def _load(self, one: Facts, figures: Stretch | None) -> Load:
        """Return the mean load of a server: measured, else that of its labels, else a guess."""
        if figures is not None:
            # What nobody counted is 0; the scenario has the same stand-in.
            load = figures.load
            return replace(
                load,
                in_tokens=load.in_tokens or NOTHING[0],
                out_tokens=load.out_tokens or NOTHING[1],
            )
        if one.load is not None:
            self._unknown.append((one.name, "its load of the past: that of its labels is taken"))
            return one.load
        guess = ASSUMED_LOAD
        self._unknown.append(
            (
                one.name,
                f"its load: {guess.rate_rpm:g} requests/min of {guess.in_tokens:g} + "
                f"{guess.out_tokens:g} tokens are assumed",
            )
        )
        return guess

    def _twin(self, kept: Sequence[Facts]) -> Json:
        servers = []
        for one in kept:
            history = self._measured.histories.get(one.name)
            if history is None:
                continue
            row: Json = {}
            figures = self._figures.get(one.name)
            share = figures.prefix_share if figures is not None else None
            if share is not None and share >= CACHED_MIN:
                row["prefixShare"] = round(share, 3)
            if one.name in self._measured.variations:
                row["tokenCv"] = self._measured.variations[one.name]
            said = self._base.in_twin(one.name)
            if row or said:
                servers.append({**said, "name": one.name, **row})
        return {
            **self._base.twin,
            "engines": list(self._engines.values()),
            **({"servers": servers} if servers or self._base.twin else {}),
        }


def _of_base(one: Facts, base: Base) -> Facts:
    """Return *one* under the names of *base*, with what *base* tells of it besides."""
    accelerator = one.accelerator
    if (one.model, accelerator) not in base.models:
        fitting = [
            name
            for (model, name), row in base.models.items()
            if model == one.model
            and base.accelerators[name]["type"] == one.type
            and base.accelerators[name].get("multiplicity", 1) * row.get("accCount", 1) == one.gpus
        ]
        if len(fitting) != 1 or not one.type:
            return one
        accelerator = fitting[0]
    row, unit = base.models[one.model, accelerator], base.accelerators[accelerator]
    max_batch = one.max_batch
    if any(line.startswith(BATCH) for line in one.unknown):
        max_batch = base.servers.get(one.name, {}).get("maxBatchSize") or row["maxBatchSize"]
    gpus = one.gpus
    if any(line.startswith(GPUS) for line in one.unknown):
        gpus = unit.get("multiplicity", 1) * row.get("accCount", 1)
    return replace(
        one,
        accelerator=accelerator,
        type=unit["type"],
        gpus=gpus,
        max_batch=max_batch,
        unknown=tuple(line for line in one.unknown if not line.startswith(_TOLD_BY_BASE)),
    )


def _by_line(unknown: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return each line once, with all whom it concerns."""
    whom: dict[str, list[str]] = defaultdict(list)
    for of, line in dict.fromkeys(unknown):
        whom[line].append(of)
    return tuple((", ".join(names), line) for line, names in whom.items())
