"""`inferno init`: a data directory from model configs and GPUs, ready for `inferno sim`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inferno.cli.command import EXIT_OK, Command
from inferno.cli.datasheets import CONFIG_HELP, accelerators, add_dtype_option, find_model

if TYPE_CHECKING:
    from twin.fit.datasheet import Accelerator, DataSheetModel
    from twin.fit.model_config import ModelFacts
    from twin.spec import AdmissionRule, Scheduling

TEXT = """\
Write a complete data directory from what is known before anything is measured:
the configs of the models, the GPUs at hand, and the classes of service. Latency
models, KV caches and start-up times follow from data sheets (inferno model).
There is a server for each model in each class.

  inferno init mine --config llama-3.1-8b --gpus H100=8,L40S=4
  inferno init mine --config a/config.json b/config.json --gpus H100=8 \\
    --classes Premium=30/500,Batch=200/10000 --rpm 240 --tokens 1024/256
  inferno sim --data mine --scenario ramp
"""

# ITL and TTFT [ms], priority.
CLASSES: Mapping[str, tuple[float, float, int]] = {
    "Premium": (30.0, 500.0, 1),
    "Bronze": (60.0, 1000.0, 2),
    "Free": (120.0, 3000.0, 4),
}

Json = dict[str, Any]


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="where to write; new, or empty")
    parser.add_argument("--config", required=True, nargs="+", metavar="FILE", help=CONFIG_HELP)
    parser.add_argument(
        "--gpus",
        required=True,
        metavar="NAME=N,…",
        help="the GPUs at hand, by names of sample-data/datasheets/accelerators.json",
    )
    parser.add_argument(
        "--classes",
        default="Premium",
        metavar="NAME[=ITL/TTFT],…",
        help="classes of service, the most important first, with their objectives [ms]; known are "
        "Premium=30/500, Bronze=60/1000 and Free=120/3000 (default Premium)",
    )
    parser.add_argument(
        "--rpm", type=float, default=60.0, help="requests/min of each server (default 60)"
    )
    parser.add_argument(
        "--tokens",
        default="512/256",
        metavar="IN/OUT",
        help="mean tokens of a request, in and out (default 512/256)",
    )
    parser.add_argument(
        "--vllm",
        metavar="VERSION",
        help="version of vLLM, which plans an iteration ahead since 0.15, and admits a request "
        "once its whole prompt fits since 0.19 (default: a current one)",
    )
    add_dtype_option(parser)


def _run(options: Namespace) -> int:
    from experiments.datasheet_files import admission_of, scheduling_of
    from twin.spec import SpecError

    directory: Path = options.directory
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise SpecError(f"{directory}: expected a new or an empty directory, found one in use")
    for given in options.config:
        if "," in given and not Path(given).exists():
            expected = "config: expected models with spaces between them"
            raise SpecError(f"{expected}, found {given[:60]!r}")
    models = [find_model(given) for given in options.config]
    gpus = _gpus(options.gpus)
    tokens = _pair("tokens", options.tokens)
    engines = engines_of(models, gpus=gpus, tokens=tokens, dtype=options.dtype)
    files = data_files(
        engines,
        models,
        gpus=gpus,
        classes=classes_of(options.classes),
        rpm=_positive("rpm", str(options.rpm)),
        tokens=tokens,
        scheduling=scheduling_of(options.vllm),
        admission=admission_of(options.vllm),
    )
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if not options.quiet:
        for line in [*_said(files), *_told(engines)]:
            print(line)
        print(f"wrote {len(files)} files to {directory}; try: inferno sim --data {directory}")
    return EXIT_OK


def engines_of(
    models: Sequence[ModelFacts],
    *,
    gpus: Mapping[Accelerator, int],
    tokens: tuple[float, float],
    dtype: Any,
) -> list[DataSheetModel]:
    """Return an engine of each model on each GPU that holds it. Raise SpecError for a model that
    fits on none of the GPUs, or that is given twice.
    """
    from experiments.datasheet_files import TP_SIZES, smallest_engine
    from twin.spec import SpecError

    engines: list[DataSheetModel] = []
    for number, model in enumerate(models):
        if any(model.name == other.name for other in models[:number]):
            raise SpecError(f"config: expected models of different names, found {model.name} twice")
        fitting = [
            engine
            for accelerator, count in gpus.items()
            if (engine := smallest_engine(model, accelerator, count, tokens=tokens, dtype=dtype))
        ]
        if not fitting:
            names = ", ".join(f"{count} {each.name}" for each, count in gpus.items())
            *_, most = (tp for tp in TP_SIZES if model.is_split_by(tp))
            heads = f"{model.heads} heads and {model.kv_heads} KV heads"
            shares = f" ({most} at most can share its {heads})" if most < TP_SIZES[-1] else ""
            raise SpecError(
                f"{model.name}: expected GPUs that hold its {model.parameters / 1e9:.1f} billion "
                f"parameters and a KV cache, found {names}" + shares
            )
        engines += fitting
    return engines


def data_files(
    engines: Sequence[DataSheetModel],
    models: Sequence[ModelFacts],
    *,
    gpus: Mapping[Accelerator, int],
    classes: Mapping[str, tuple[float, float, int]],
    rpm: float,
    tokens: tuple[float, float],
    scheduling: Scheduling,
    admission: AdmissionRule,
) -> dict[str, Json]:
    """Return the content of each file of the directory."""
    from experiments.datasheet_files import accelerator_row, engine_row, model_row

    return {
        "accelerator-data.json": {"accelerators": [accelerator_row(each) for each in gpus]},
        "capacity-data.json": {
            "count": [{"type": each.name, "count": count} for each, count in gpus.items()]
        },
        "model-data.json": {
            "models": [model_row(engine, tokens, scheduling) for engine in engines]
        },
        "serviceclass-data.json": {
            "serviceClasses": [
                {
                    "name": name,
                    "priority": priority,
                    "modelTargets": [
                        {"model": model.name, "slo-itl": itl, "slo-ttft": ttft} for model in models
                    ],
                }
                for name, (itl, ttft, priority) in classes.items()
            ]
        },
        "optimizer-data.json": {
            "optimizer": {
                "unlimited": False,
                "saturationPolicy": "PriorityRoundRobin",
                "delayedBestEffort": False,
            }
        },
        "server-data.json": {
            "servers": _servers(engines, models, classes=classes, rpm=rpm, tokens=tokens, gpus=gpus)
        },
        "twin-data.json": {
            "engines": [engine_row(engine, admission=admission) for engine in engines]
        },
    }


def _servers(
    engines: Sequence[DataSheetModel],
    models: Sequence[ModelFacts],
    *,
    classes: Mapping[str, tuple[float, float, int]],
    rpm: float,
    tokens: tuple[float, float],
    gpus: Mapping[Accelerator, int],
) -> list[Json]:
    """Return a server for each model in each class; each has one replica if a GPU is left."""
    from experiments.datasheet_files import max_batch_of

    left = {accelerator.name: count for accelerator, count in gpus.items()}
    rows = []
    for name in classes:
        for model in models:
            own = [engine for engine in engines if engine.model.name == model.name]
            engine = next((each for each in own if each.tp <= left[each.accelerator.name]), None)
            current: Json = {
                "accelerator": own[0].accelerator.name
                if engine is None
                else (engine.accelerator.name),
                "numReplicas": 0 if engine is None else 1,
                "maxBatch": max_batch_of(engine or own[0], tokens),
                "cost": 0.0 if engine is None else engine.tp * engine.accelerator.price_cents,
                "load": {"arrivalRate": rpm, "avgInTokens": tokens[0], "avgOutTokens": tokens[1]},
            }
            if engine is not None:
                left[engine.accelerator.name] -= engine.tp
            rows.append(
                {
                    "name": f"{name}-{model.name}",
                    "class": name,
                    "model": model.name,
                    "keepAccelerator": False,
                    "minNumReplicas": 1,
                    "currentAlloc": current,
                }
            )
    return rows


def _said(files: Mapping[str, Json]) -> list[str]:
    """Return a line for each model on each GPU."""
    engines = zip(
        files["model-data.json"]["models"], files["twin-data.json"]["engines"], strict=True
    )
    return [
        f"{row['name']} on {row['accCount']} × {row['acc']}: alpha {row['perfParms']['alpha']} ms, "
        f"beta {row['perfParms']['beta']} ms/token, gamma {row['perfParms']['gamma']} ms/KV token, "
        f"KV cache {engine['kvTokens']:,} tokens"
        for row, engine in engines
    ]


def _told(engines: Sequence[DataSheetModel]) -> list[str]:
    """Return a line for each reason why figures may be further off, and for each thing that an
    engine has to be told, with whose they are.
    """
    whose: dict[tuple[str, str], list[str]] = {}
    for engine in engines:
        name = f"{engine.model.name} on {engine.accelerator.name}"
        for kind, lines in (("weak", engine.weak), ("note", engine.notes)):
            for line in lines:
                whose.setdefault((kind, line), []).append(name)
    return [f"{kind}: {', '.join(dict.fromkeys(of))}: {line}" for (kind, line), of in whose.items()]


# -- the options


def _gpus(text: str) -> dict[Accelerator, int]:
    from twin.fit.datasheet import find_accelerator
    from twin.magnitudes import LARGEST_WHOLE
    from twin.spec import SpecError

    table = accelerators()
    found: dict[Accelerator, int] = {}
    for part in text.split(","):
        name, _, count = part.strip().partition("=")
        accelerator = find_accelerator(table, name)
        if not count.isdecimal() or not 1 <= float(count) <= LARGEST_WHOLE:
            expected = f"NAME=N with N from 1 to {LARGEST_WHOLE}"
            raise SpecError(f"gpus: expected {expected}, found {part[:60]!r}")
        found[accelerator] = found.get(accelerator, 0) + int(count)
    return found


def classes_of(text: str) -> dict[str, tuple[float, float, int]]:
    """Return objectives and priority of each class that an option names."""
    from twin.spec import SpecError

    found: dict[str, tuple[float, float, int]] = {}
    for number, part in enumerate(text.split(","), 1):
        name, _, targets = part.strip().partition("=")
        known = next((key for key in CLASSES if key.lower() == name.lower()), None)
        if not name or name in found:
            raise SpecError(f"classes: expected names, each once, found {text[:60]!r}")
        if targets:
            itl, ttft = _pair(f"classes: {name}", targets)
            found[name] = (itl, ttft, number)
        elif known:
            found[known] = (*CLASSES[known][:2], number)
        else:
            raise SpecError(
                f"classes: expected {name}=ITL/TTFT, as only {', '.join(CLASSES)} have objectives "
                f"of their own, found {part[:60]!r}"
            )
    return found


def _pair(what: str, text: str) -> tuple[float, float]:
    first, _, second = text.partition("/")
    return _positive(what, first), _positive(what, second)


def _positive(what: str, text: str) -> float:
    from twin.spec import SpecError

    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1e9:
        raise SpecError(f"{what}: expected a number > 0 and <= 1e9, found {text[:60]!r}")
    return value


COMMAND = Command(
    name="init",
    summary="a data directory from model configs and GPUs, unmeasured",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
