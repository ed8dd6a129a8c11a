"""The command fit: a request log in, the latency model of its engine out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from twin.fit.report import fit_json, fit_text
from twin.fit.search import fit_file
from twin.spec import SpecError

EXIT_OK = 0

AddCommand = Callable[..., argparse.ArgumentParser]


def add_commands(add: AddCommand) -> None:
    """Add this command; *add*(name, run, summary, text) makes a parser for it."""
    _add_fit(add)


def _add_fit(add: AddCommand) -> None:
    parser = add(
        "fit",
        _fit,
        "alpha, beta, gamma of an engine from a log of its requests",
        """\\
Fit the latency model alpha + beta·(tokens computed) + gamma·(KV tokens read) by replaying the log
on the twin's replica.
FILE has the columns queued_s, input_tokens, output_tokens, first_token_s and last_token_s.

  inferno fit requests.csv --kv-tokens 41408 --max-batch 256 --token-budget 2048
""",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="CSV, one request a row")
    parser.add_argument(
        "--kv-tokens", type=int, help="KV capacity of the replica in tokens (default: never short)"
    )
    parser.add_argument(
        "--max-batch", type=int, default=256, help="most requests in a batch (default 256)"
    )
    parser.add_argument(
        "--token-budget", type=int, default=8192, help="most tokens in an iteration (default 8192)"
    )
    parser.add_argument(
        "--block-size", type=int, default=16, help="tokens in a KV block (default 16)"
    )
    parser.add_argument(
        "--admission",
        choices=("full_prompt", "chunk"),
        default="full_prompt",
        help=(
            "what must fit to be admitted: the whole prompt (vLLM since 0.19, default) or its "
            "first chunk"
        ),
    )
    parser.add_argument(
        "--rows",
        type=int,
        help="fit the first ROWS requests and score the latency model on the later ones too",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _fit(options: argparse.Namespace) -> int:
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
