"""`inferno model`: the latency model of an engine from data sheets, without a log."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from inferno.cli.command import EXIT_OK, Command
from inferno.cli.datasheets import add_batch_options, add_engine_options, engine_of

if TYPE_CHECKING:
    from twin.fit.datasheet import DataSheetModel
    from twin.spec import LatencyModel

TEXT = """\
Print the latency model of a model on an accelerator,

  alpha + beta · (tokens computed) + gamma · (KV tokens read)  [ms],

from the config.json of the model and the data sheet of the accelerator, with
the time of a request outside the engine, the KV capacity of a replica, the
error to expect, and why it may be larger. Nothing is downloaded.

  inferno model --config config.json --accelerator H100 --tp 2
  inferno model --config llama-3.1-8b --accelerator L40S --dtype fp8
"""


def _add_arguments(parser: ArgumentParser, _arguments: Sequence[str]) -> None:
    add_engine_options(parser, required=True)
    add_batch_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _run(options: Namespace) -> int:
    from twin.spec import SpecError

    for name in ("max_batch", "token_budget"):
        if getattr(options, name) < 1:
            found = getattr(options, name)
            raise SpecError(f"{name}: expected a whole number >= 1, found {found}")
    model = engine_of(options, max_batch=options.max_batch, token_budget=options.token_budget)
    if options.json:
        print(json.dumps(model_json(model), indent=2, allow_nan=False))
    else:
        print(model_text(model))
    return EXIT_OK


def model_json(found: DataSheetModel) -> dict[str, Any]:
    """Return the latency model under the names of the data files."""
    from experiments.datasheet_files import perf_parms

    return {
        "model": found.model.name,
        "accelerator": found.accelerator.name,
        "tp": found.tp,
        "dtype": found.dtype,
        "perfParms": perf_parms(found),
        "overheadMs": found.overhead_ms,
        "kvTokens": found.kv_tokens,
        "weightsGB": round(found.weights_gb, 2),
        # What nobody measured has an error that nobody knows.
        "expectedError": {"e2e": None, "ttft": None}
        if found.is_unmeasured
        else {"e2e": found.expected_e2e, "ttft": found.expected_ttft},
        "weak": list(found.weak),
        "notes": list(found.notes),
        "source": found.accelerator.source,
    }


def model_text(found: DataSheetModel) -> str:
    """Return a few lines for people."""
    latency_model = found.latency_model
    gpus = (
        f"{found.tp} × {found.accelerator.full_name}"
        if found.tp > 1
        else (found.accelerator.full_name)
    )
    capacity = (
        f"{found.kv_tokens:,} tokens of a replica"
        if found.kv_tokens
        else "none: the weights do not fit; take more GPUs (--tp) or fp8"
    )
    lines = [
        f"{found.model.name}, {found.dtype}, on {gpus}",
        f"  {found.model.parameters / 1e9:.2f} billion parameters, "
        f"{found.model.active / 1e9:.2f} compute a token, weights {found.weights_gb:.1f} GB",
        "",
        f"  alpha {latency_model.alpha_ms:>12.6g} ms",
        f"  beta  {latency_model.beta_ms:>12.4g} ms/token",
        f"  gamma {latency_model.gamma_ms:>12.4g} ms/KV token",
        *_experts(latency_model),
        *_attention(latency_model),
        f"  overhead {found.overhead_ms:>9.4g} ms           of a request, outside the engine",
        f"  KV cache {capacity}",
        "",
        *_expected(found),
    ]
    lines += [f"  weak: {reason}" for reason in found.weak]
    lines += [f"  note: {line}" for line in found.notes]
    lines.append(f"  data sheet: {found.accelerator.source}")
    return "\n".join(lines)


def _expected(found: DataSheetModel) -> list[str]:
    from twin.fit.datasheet import EXPECTED_E2E

    errors = f"E2E {found.expected_e2e:.0%}, TTFT {found.expected_ttft:.0%}"
    if found.is_unmeasured:
        return [f"  expected error: not known, nobody measured such; {errors} of what was measured"]
    if found.expected_e2e > EXPECTED_E2E:
        return [f"  expected error: up to {errors} (as was seen of what is weak here)"]
    return [
        f"  expected error: {errors} (median over load stages of models that did",
        "  not help to set the constants; docs/validation.md)",
    ]


def _experts(model: LatencyModel) -> list[str]:
    if not model.experts_ms:
        return []
    return [
        f"  experts {model.experts_ms:>10.4g} ms           of alpha, if all are needed: n tokens "
        f"save {model.experts_idle:.4g}ⁿ of it"
    ]


def _attention(model: LatencyModel) -> list[str]:
    if not model.attention:
        return []
    return [
        f"  attention {model.attention:>8.3g}              of beta more, for each token before one "
        "of a prompt"
    ]


COMMAND = Command(
    name="model",
    summary="the latency model of an engine, from data sheets",
    text=TEXT,
    add_arguments=_add_arguments,
    run=_run,
)
