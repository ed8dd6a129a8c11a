"""`inferno fit`: logs of requests in, the latency model of their engine out."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inferno.cli.command import EXIT_OK, Command
from inferno.cli.datasheets import add_batch_options, add_engine_options, engine_of

if TYPE_CHECKING:
    from twin.fit.search import Prior

TEXT = """\
Fit the latency model of an engine,

  alpha + beta · (tokens computed) + gamma · (KV tokens read)  [ms],

by replaying logs of its requests on the twin's replica. FILE is one of
- a CSV with the columns queued_s, input_tokens, output_tokens, first_token_s
  and last_token_s,
- JSON of `vllm bench serve --save-result`, best with --save-detailed, or of
  sglang.bench_serving,
- JSON of GuideLLM, or its table (benchmarks.csv) until 0.4,
- what GenAI-Perf writes (profile_export.json with usage in its answers, and
  the summary profile_export_genai_perf.json) or AIPerf (profile_export.jsonl,
  and the summary profile_export_aiperf.json),
- what inference-perf writes (stage_0_lifecycle_metrics.json and so on, or
  per_request_lifecycle_metrics.json), or the summary of LLMPerf,
- a CSV of operating points: rate_rps, rate_rpm or concurrency, in_tokens,
  out_tokens, means in ttft_ms and itl_ms, tpot_ms or e2e_ms, and, if you
  have them, percentiles (ttft_ms_p95, itl_ms_p99, e2e_ms_p50) and requests,
  how many were measured: at a concurrency all come at once at first.
Several files, of several workloads of one engine, make one fit. Requests that
failed are left out and counted.

  inferno fit requests.csv --kv-tokens 41408 --max-batch 256
  inferno fit bench-chat.json bench-code.json --max-batch 128
  inferno fit bench.json --config config.json --accelerator H100 \\
    --write mine --model llama-3.1-8b
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument(
        "files", type=Path, metavar="FILE", nargs="+", help="a log of requests, see above"
    )
    parser.add_argument(
        "--time-unit",
        choices=("s", "ms", "us", "ns"),
        help="unit of the times in a CSV, whatever its columns are called (default s)",
    )
    parser.add_argument(
        "--overhead",
        choices=("auto", "fit", "none"),
        default="auto",
        help="fit the time that a request spends outside the engine, in the client and in HTTP: "
        "auto (default) for logs of clients, which JSON files are, and tables of operating points, "
        "not for a CSV of requests",
    )
    _add_limits(parser)
    _add_choices(parser)
    engine = parser.add_argument_group(
        "prior", "what the data sheet says holds what the logs do not tell (see inferno model)"
    )
    add_engine_options(engine, required=False)
    written = parser.add_argument_group("data directory")
    written.add_argument(
        "--write", type=Path, metavar="DIR", help="put the result into model-data.json of DIR"
    )
    written.add_argument("--model", metavar="NAME", help="the model's name in DIR")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_limits(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--kv-tokens",
        type=int,
        metavar="N",
        help="KV cache of the replica in tokens (default: unlimited)",
    )
    add_batch_options(parser)
    parser.add_argument(
        "--block-size",
        type=int,
        default=16,
        metavar="N",
        help="tokens in a block of the KV cache (default 16)",
    )
    parser.add_argument(
        "--admission",
        choices=("full_prompt", "chunk"),
        default="full_prompt",
        help="what must fit for a request to be admitted: the whole prompt (vLLM since 0.19, "
        "default) or its first chunk",
    )

    parser.add_argument(
        "--tokens-per-step",
        type=float,
        metavar="X",
        help="tokens of a request that a step makes, with speculative decoding (default: what the "
        "files tell, else 1)",
    )


def _add_choices(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help="fit the first N requests of each log, and score the model on the later ones too, "
        "which find the server as the first ones left it",
    )
    parser.add_argument(
        "--form",
        choices=("auto", "sum", "roofline"),
        default="auto",
        help="the latency model: the sum above, the soft roofline, in which reading and computing "
        "overlap, or what predicts better what was not fitted (auto, default): the second half of "
        "each log, or of a table every other point by load; of a table p is searched for, too",
    )
    parser.add_argument(
        "--scheduling",
        choices=("auto", "sync", "async"),
        default="auto",
        help="whether the engine plans an iteration ahead, as vLLM does since 0.15 (default auto)",
    )


def _run(options: Namespace) -> int:
    from experiments.config import shipped
    from twin.fit.fitting import FAMILIES, fit_logs
    from twin.fit.logs import (
        left_out,
        other_servers,
        read_logs,
        tokens_per_step,
        with_points_together,
    )
    from twin.fit.replay import ReplicaLimits
    from twin.fit.report import fit_json, fit_text, perf_parms
    from twin.spec import TOKENS_PER_STEP_MAX as STEP_MAX
    from twin.spec import SpecError

    if options.rows is not None and options.rows < 1:
        raise SpecError(f"rows: expected a whole number >= 1, found {options.rows}")
    if options.write and not (options.model and options.accelerator):
        raise SpecError("write: expected --model and --accelerator too, to know the row")
    if options.write:
        check_directory(options)  # before the fit, which takes a while
    if options.tokens_per_step is not None and not 1.0 <= options.tokens_per_step <= STEP_MAX:
        raise SpecError(
            f"tokens-per-step: expected 1 to {STEP_MAX:g}, found {options.tokens_per_step:g}"
        )
    read = [
        rows
        for path in options.files
        for rows in read_logs(shipped(path), time_unit=options.time_unit)
    ]
    limits = ReplicaLimits(
        max_batch=options.max_batch,
        token_budget=options.token_budget,
        kv_tokens=options.kv_tokens,
        block_size=options.block_size,
        admission=options.admission,
        tokens_per_step=options.tokens_per_step or tokens_per_step(read),
    )
    logs = with_points_together(read)
    is_client = all(rows.place != "line" for rows in logs)
    result = fit_logs(
        logs,
        limits=limits,
        fitted=None if options.rows is None else slice(0, options.rows),
        prior=_prior(options),
        with_overhead=options.overhead == "fit" or (options.overhead == "auto" and is_client),
        families=[
            family
            for family in FAMILIES
            if options.form in ("auto", "sum" if family.p == 1.0 else "roofline")
            and options.scheduling in ("auto", family.scheduling)
        ],
    )
    written = ""
    if options.write:
        longest = max(float(rows.output_tokens.mean()) for rows in logs)
        written = write_row(
            options, perf_parms(result), overhead_ms=result.overhead_ms, at_tokens=longest
        )
    if options.json:
        print(json.dumps(fit_json(result), indent=2, allow_nan=False))
    else:
        print("\n".join([*left_out(logs), *other_servers(read), fit_text(result)]))
    if written:
        print(written, file=sys.stderr if options.json else sys.stdout)
    return EXIT_OK


def _prior(options: Namespace) -> Prior | None:
    """Return what the data sheet says of the engine, None if no config is given."""
    from twin.fit.search import prior_of
    from twin.spec import SpecError

    if options.config is None:
        return None
    if options.accelerator is None:
        raise SpecError("config: expected --accelerator too, found a model without its GPU")
    found = engine_of(options, max_batch=options.max_batch, token_budget=options.token_budget)
    return prior_of(found.latency_model)


def write_row(
    options: Namespace, parms: Mapping[str, object], *, overhead_ms: float, at_tokens: float
) -> str:
    """Put *parms* into the row of the model on the accelerator, which is added if there is none.
    Return a line that says so.

    Raise SpecError if the directory does not know the accelerator, or is wrong.
    """
    from loop.schema.models import ModelData
    from loop.schema.parsing import read
    from twin.datafile import did_you_mean, read_json

    check_directory(options)
    path = options.write / "model-data.json"
    document: dict[str, Any] = read_json(path)
    models = read(ModelData, document, source=str(path), level="files").models
    pairs = [(row.name, row.acc) for row in models]
    key = next(key for key in document if key.lower() == "models")
    rows = document[key]
    pair = (options.model, options.accelerator)
    told = ""
    if pair in pairs:
        # Whatever says the latency model now, in any case or as it was said before.
        row = rows[pairs.index(pair)]
        for old in [name for name in row if name.lower() in ("perfparms", "alpha", "beta")]:
            del row[old]
    else:
        row = {"name": options.model, "acc": options.accelerator, "accCount": options.tp}
        row |= {"maxBatchSize": options.max_batch, "atTokens": max(int(at_tokens), 1)}
        rows.append(row)
        names = [row.name for row in models]
        if options.model in names:
            told = ": a new row, of a model that is there on other accelerators"
        else:
            told = f": a new model{did_you_mean(options.model, names)}"
    row["perfParms"] = {**parms, "overheadMs": overhead_ms} if overhead_ms else dict(parms)
    path.write_text(document_text(document, key), encoding="utf-8")
    return f"wrote perfParms of {options.model} on {options.accelerator} to {path}{told}"


def check_directory(options: Namespace) -> None:
    """Raise SpecError if the directory does not know the accelerator, or is wrong."""
    from loop.schema.models import AcceleratorData, ModelData
    from loop.schema.parsing import read
    from twin.datafile import did_you_mean, read_json
    from twin.spec import SpecError

    directory: Path = options.write
    file = directory / "accelerator-data.json"
    known = read(AcceleratorData, read_json(file), source=str(file), level="files")
    names = [row.name for row in known.accelerators]
    if options.accelerator not in names:
        raise SpecError(
            f"{directory}: accelerator: expected one of {', '.join(names)}, found "
            f"{options.accelerator[:60]!r}{did_you_mean(options.accelerator, names)}"
        )
    path = directory / "model-data.json"
    read(ModelData, read_json(path), source=str(path), level="files")


def document_text(document: Mapping[str, Any], key: str) -> str:
    """Return *document* as JSON, a line for each row under *key*."""
    rows = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in document[key])
    values = {name: json.dumps(value, ensure_ascii=False) for name, value in document.items()}
    values[key] = f"[\n{rows}\n  ]"
    lines = (f"  {json.dumps(name)}: {value}" for name, value in values.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


COMMAND = Command(
    name="fit",
    summary="the latency model of an engine, from logs of its requests",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
