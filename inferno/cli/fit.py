"""`inferno fit`: a request log in, the latency model of its engine out."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from inferno.cli.command import EXIT_OK, Command

TEXT = """\
Fit the latency model of an engine,

  alpha + beta · (tokens computed) + gamma · (KV tokens read)  [ms],

by replaying a log of its requests on the twin's replica. FILE is a CSV with the
columns queued_s, input_tokens, output_tokens, first_token_s and last_token_s.

  inferno fit requests.csv --kv-tokens 41408 --max-batch 256
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="CSV, one request a row")
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
        help="fit the first N requests, and score the latency model on the later ones too",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _run(options: Namespace) -> int:
    from twin.fit.search import fit_file, fit_json, fit_text
    from twin.spec import SpecError

    if options.rows is not None and options.rows < 1:
        raise SpecError(f"rows: expected a whole number >= 1, found {options.rows}")
    result = fit_file(
        options.file,
        kv_tokens=options.kv_tokens,
        max_batch=options.max_batch,
        token_budget=options.token_budget,
        block_size=options.block_size,
        admission=options.admission,
        rows=None if options.rows is None else slice(0, options.rows),
    )
    print(
        json.dumps(fit_json(result), indent=2, allow_nan=False)
        if options.json
        else fit_text(result)
    )
    return EXIT_OK


COMMAND = Command(
    name="fit",
    summary="the latency model of an engine, from a log of its requests",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
