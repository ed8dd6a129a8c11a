"""`inferno fit`: logs of requests in, the latency model of their engine out."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from inferno.cli.command import EXIT_OK, Command

TEXT = """\
Fit the latency model of an engine,

  alpha + beta · (tokens computed) + gamma · (KV tokens read)  [ms],

by replaying logs of its requests on the twin's replica. FILE is one of
- a CSV with the columns queued_s, input_tokens, output_tokens, first_token_s
  and last_token_s,
- JSON of `vllm bench serve --save-result --save-detailed`,
- JSON of GuideLLM,
- JSON lines of AIPerf (profile_export.jsonl).
Several files, of several workloads of one engine, make one fit. Requests that
failed are left out and counted.

  inferno fit requests.csv --kv-tokens 41408 --max-batch 256
  inferno fit bench-chat.json bench-code.json --max-batch 128
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
        "auto (default) for logs of clients, which JSON files are, not for a CSV",
    )
    parser.add_argument(
        "--kv-tokens",
        type=int,
        metavar="N",
        help="KV cache of the replica in tokens (default: unlimited)",
    )
    parser.add_argument(
        "--max-batch",
        type=int,
        default=256,
        metavar="N",
        help="most requests in a batch (default 256)",
    )
    parser.add_argument(
        "--token-budget",
        type=int,
        default=8192,
        metavar="N",
        help="most tokens in an iteration (default 8192)",
    )
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
        "--rows",
        type=int,
        metavar="N",
        help="fit the first N requests of each log, and score the model on the later ones too",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _run(options: Namespace) -> int:
    from twin.fit.logs import left_out, read_logs
    from twin.fit.replay import ReplicaLimits
    from twin.fit.report import fit_json, fit_text
    from twin.fit.search import fit_logs
    from twin.spec import SpecError

    if options.rows is not None and options.rows < 1:
        raise SpecError(f"rows: expected a whole number >= 1, found {options.rows}")
    limits = ReplicaLimits(
        max_batch=options.max_batch,
        token_budget=options.token_budget,
        kv_tokens=options.kv_tokens,
        block_size=options.block_size,
        admission=options.admission,
    )
    logs = [rows for path in options.files for rows in read_logs(path, time_unit=options.time_unit)]
    is_client = all(rows.place != "line" for rows in logs)
    result = fit_logs(
        logs,
        limits=limits,
        fitted=None if options.rows is None else slice(0, options.rows),
        with_overhead=options.overhead == "fit" or (options.overhead == "auto" and is_client),
    )
    if options.json:
        print(json.dumps(fit_json(result), indent=2, allow_nan=False))
        return EXIT_OK
    print("\n".join([*left_out(logs), fit_text(result)]))
    return EXIT_OK


COMMAND = Command(
    name="fit",
    summary="the latency model of an engine, from logs of its requests",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
