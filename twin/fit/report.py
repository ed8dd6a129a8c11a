"""A fit as text for people and as JSON for programs. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twin.fit.replay import ReplayScore
    from twin.fit.search import FitResult
    from twin.spec import LatencyModel

COEFFICIENTS = (
    ("alpha", "alpha_ms", "ms"),
    ("beta", "beta_ms", "ms/token"),
    ("gamma", "gamma_ms", "ms/KV token"),
)


def fit_json(result: FitResult) -> dict[str, Any]:
    """Return the latency model under the names of model-data.json, how well it is known, and the
    scores of its replay.
    """
    return {
        "source": result.source,
        "perfParms": _latency_model(result.latency_model),
        "lowest": _latency_model(result.lowest),
        "highest": _latency_model(result.highest),
        "fitted": _score(result.fitted_rows),
        "heldOut": _score(result.held_out) if result.held_out else None,
        "preemptions": result.preemptions,
        "evaluations": result.evaluations,
    }


def fit_text(result: FitResult) -> str:
    """Return a few lines: each coefficient with the range that fits nearly as well, and the errors
    of the replay.
    """
    lines = [
        f"{result.source}: {result.fitted_rows.requests} requests fitted, {result.evaluations} "
        "replays",
        "",
    ]
    for name, field, unit in COEFFICIENTS:
        latency_model, lowest, highest = (
            getattr(each, field) for each in (result.latency_model, result.lowest, result.highest)
        )
        lines.append(
            f"  {name:<6}{latency_model:>12.6g} {unit:<12} nearly as good: {lowest:.4g} to "
            f"{highest:.4g}"
        )
    lines += [
        "",
        f"  {'replay with this model':<24}{'mean e2e':>10}{'mean TTFT':>11}{'e2e MAPE':>10}",
    ]
    lines.append(_score_line("fitted requests", result.fitted_rows))
    if result.held_out:
        lines.append(_score_line("later requests", result.held_out))
    return "\n".join(lines)


def _score_line(name: str, score: ReplayScore) -> str:
    return f"  {name:<24}{score.e2e_error:>+10.2%}{score.ttft_error:>+11.2%}{score.e2e_mape:>10.2%}"


def _latency_model(latency_model: LatencyModel) -> dict[str, float]:
    return {
        "alpha": latency_model.alpha_ms,
        "beta": latency_model.beta_ms,
        "gamma": latency_model.gamma_ms,
    }


def _score(score: ReplayScore) -> dict[str, float]:
    return {
        "requests": score.requests,
        "e2eError": score.e2e_error,
        "ttftError": score.ttft_error,
        "e2eMape": score.e2e_mape,
    }
