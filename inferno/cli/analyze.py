"""`inferno analyze`: replicas in, figures of their queues or sizes out, a JSON line each."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence

from inferno.cli.command import EXIT_BAD_INPUT, EXIT_OK, Command

TEXT = """\
Read JSON lines with alpha, beta, gamma, avgIn, avgOut, maxBatch, maxQueue,
maxNumTokens and either rate [req/s] (analysed) or targets {ttft, itl, tps}
(sized); print one JSON line each. A malformed line is answered with an error
and does not stop the stream; the exit code is then 2.

  inferno analyze replicas.jsonl

where a line of replicas.jsonl is, for instance,

  {"alpha": 6.49, "beta": 0.0219, "gamma": 4.96e-5, "avgIn": 512, "avgOut": 256,
   "maxBatch": 64, "rate": 2}                                      (in one line)
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    parser.add_argument(
        "file", nargs="?", default="-", metavar="FILE", help="JSON lines (default: standard input)"
    )


def _run(options: Namespace) -> int:
    from loop.schema.analysis_lines import analyze_lines

    malformed = 0
    for answer in analyze_lines(_lines(options.file)):
        print(answer.text, flush=True)
        malformed += answer.malformed
    return EXIT_BAD_INPUT if malformed else EXIT_OK


def _lines(name: str) -> Iterator[str]:
    """Yield the lines of a file, or of standard input as they come."""
    from inferno.cli.text_files import read_text

    yield from sys.stdin if name == "-" else read_text(name).splitlines()


COMMAND = Command(
    name="analyze",
    summary="queue figures or sizes of one replica, a JSON line each",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
