"""A fit as text for people and as JSON for programs, with a verdict."""

from __future__ import annotations

from typing import Any

from twin.fit.fitting import ASKED_EACH, FitResult
from twin.fit.replay import PERCENTILES, ReplayScore
from twin.fit.search import COEFFICIENTS
from twin.spec import LatencyModel

# Where docs/validation.md draws the line: relative errors of the mean E2E, the mean TTFT, and the
# mean error of a request's E2E, on requests that were fitted. Those that were not get twice that.
E2E_MAX, TTFT_MAX, MAPE_MAX = 0.02, 0.10, 0.03
# What the data sheet says of alpha and beta has a fifth and a third in it that no server saves.
# Below this part of it weights were not read for each token, or prompts not computed.
POSSIBLE = 0.6
TOO_FAST = {
    "alpha": (
        "steps are faster than weights can be read by the data sheet: does a step make several "
        "tokens (speculative decoding: --tokens-per-step), or is it another accelerator or "
        "precision?"
    ),
    "beta": (
        "prompts are computed faster than the data sheet allows: were they in the prefix cache (a "
        "benchmark that was repeated with the same seed), or is it another accelerator or "
        "precision? Measure with prompts that the server has not seen."
    ),
}
# Where first tokens come so much later than they can, they are not what the engine made first.
LATE_FIRST = 0.5
# A coefficient whose range is wider than this factor is not identified by the logs.
IDENTIFIED_WITHIN = 2.0
# Of so many that wait for their first token some are in an iteration: no queue to speak of.
CARRIED_MAX = 3


def fit_json(result: FitResult) -> dict[str, Any]:
    """Return the latency model under the names of model-data.json, how well it is known, and the
    scores of its replay.
    """
    held_out = result.held_out or result.check
    return {
        "source": ", ".join(result.sources),
        "failed": result.failed,
        "perfParms": perf_parms(result),
        "overheadMs": result.overhead_ms,
        "tokensPerStep": result.limits.tokens_per_step,
        "family": result.family.name,
        "families": {family.name: _score(score) for family, score in result.families.items()},
        "prior": _perf_parms(result.prior.latency_model) if result.prior else None,
        "lowest": _perf_parms(result.lowest),
        "highest": _perf_parms(result.highest),
        "notIdentified": not_identified(result),
        "fasterThanPossible": faster_than_possible(result),
        "fitted": _score(result.fitted_rows),
        "heldOut": _score(result.held_out) if result.held_out else None,
        "carried": result.carried,
        "halves": _score(result.check) if result.check else None,
        "within": within(result.fitted_rows, times=1.0)
        and (held_out is None or within(held_out, times=2.0)),
        "firstTokensLateMs": {each.file: each.late_s * 1e3 for each in result.apart},
        "preemptions": result.preemptions,
        "evaluations": result.evaluations,
    }


def fit_text(result: FitResult) -> str:
    """Return a few lines: each coefficient with the range that fits nearly as well, the errors of
    the replay, and a verdict.
    """
    lines = [
        f"{', '.join(result.sources)}: {result.fitted_rows.requests} requests fitted, "
        f"{result.evaluations} replays",
        "",
    ]
    for name, field, unit in COEFFICIENTS:
        latency_model, lowest, highest = (
            getattr(each, field) for each in (result.latency_model, result.lowest, result.highest)
        )
        line = (
            f"  {name:<6}{latency_model:>12.6g} {unit:<12} nearly as good: {lowest:.4g} to "
            f"{highest:.4g}"
        )
        if result.prior:
            before = getattr(result.prior.latency_model, field)
            line += f"; data sheet {before:.4g}, fit {latency_model / before - 1.0:+.0%}"
        lines.append(line)
    if result.overhead_ms:
        lines.append(f"  overhead{result.overhead_ms:>10.4g} ms           outside the engine")
    if result.limits.tokens_per_step != 1.0:
        lines.append(
            f"  with {result.limits.tokens_per_step:.3g} tokens of a request a step (speculative "
            "decoding): tokensPerStep of the engine in twin-data.json"
        )
    lines += _families(result)
    lines += _errors(result)
    lines += ["", *_verdict(result)]
    return "\n".join(lines)


def _families(result: FitResult) -> list[str]:
    """Return which form was found or chosen, and why."""
    if not result.families and result.of_table:
        few = "by the loss of the fit: too few points to hold some out"
        return ["", f"  form: {result.family.name} ({few})"]
    if len(result.families) < 2:
        return ["", f"  form: {result.family.name}"]
    how = "every 2nd point" if result.of_table else "the 1st halves predict the 2nd ones"
    how += " by load predicts the rest" if result.of_table else ""
    lines = ["", f"  chosen: {result.family.name}, as {how}"]
    width = max(len(family.name) for family in result.families)
    lines += [
        f"    {family.name:<{width}} e2e MAPE {score.e2e_mape:>7.2%}  TTFT MAPE "
        f"{score.ttft_mape:>7.2%}"
        for family, score in result.families.items()
    ]
    return lines


def not_identified(result: FitResult, *, times: float = IDENTIFIED_WITHIN) -> list[str]:
    """Return the names of the coefficients that the logs do not tell within so many *times*."""
    return [
        name
        for name, field, _ in COEFFICIENTS
        if getattr(result.highest, field) > times * max(getattr(result.lowest, field), 1e-12)
    ]


def faster_than_possible(result: FitResult) -> list[str]:
    """Return which of alpha and beta are less than the data sheet allows; none without one, or
    where the fit explains too little to tell.
    """
    if result.prior is None or not within(result.fitted_rows, times=1.0):
        return []
    return [
        name
        for name, field, _ in COEFFICIENTS
        if name in TOO_FAST
        and getattr(result.latency_model, field)
        < POSSIBLE * getattr(result.prior.latency_model, field)
    ]


def within(score: ReplayScore, *, times: float) -> bool:
    """Tell whether *score* is within the limits, *times* as wide."""
    return (
        abs(score.e2e_error) <= times * E2E_MAX
        and abs(score.ttft_error) <= times * TTFT_MAX
        and score.e2e_mape <= times * MAPE_MAX
    )


def _errors(result: FitResult) -> list[str]:
    scores = [("fitted requests", result.fitted_rows)]
    if result.held_out:
        scores.append(("later requests", result.held_out))
    if result.check:
        what = "held-out points" if result.of_table else "2nd half by 1st half"
        scores.append((what, result.check))
    lines = [
        "",
        f"  {'replay with this model':<24}{'mean e2e':>10}{'mean TTFT':>11}{'e2e MAPE':>10}",
    ]
    lines += [_score_line(name, score) for name, score in scores]
    if result.carried > CARRIED_MAX:
        lines.append(
            f"  {result.carried} of the fitted requests still waited when the later ones began: "
            "what their queue is off by is in the errors of the later ones too"
        )
    name, score = scores[-1]
    heads = "".join(f"{f'p{percentile}':>10}" for percentile in PERCENTILES)
    lines += ["", f"  {f'errors, {name}':<28}{heads}"]
    for latency, errors in score.tails.items():
        if errors:
            cells = "".join(f"{error:>+10.2%}" for error in errors)
            label = "e2e" if latency == "e2e" else latency.upper()
            lines.append(f"  {label:<28}{cells}")
    return lines


def _verdict(result: FitResult) -> list[str]:
    lines = []
    if result.is_usual is not None:
        better = (
            f"{ASKED_EACH} a user, from an empty server on, explain"
            if result.is_usual
            else "a server that was full all the time explains"
        )
        lines.append(
            "how many requests were measured at a concurrency is not told (a column requests): "
            f"{better} the latencies better."
        )
    lines += [
        f"first tokens of {each.file} come {abs(each.late_s) * 1e3:.1f} ms "
        f"{'later' if each.late_s > 0.0 else 'sooner'}, beside most files, than this says: "
        "another client, or another day? Fit it apart, its overhead is not theirs."
        for each in result.apart
    ]
    unknown = not_identified(result)
    if unknown:
        verb = "is" if len(unknown) == 1 else "are"
        lines.append(
            f"{' and '.join(unknown)} {verb} not identified: these requests are replayed nearly as "
            "well by other values. "
            + (
                "The data sheet holds the value."
                if result.prior
                else "Add a log with other batch sizes, or a prior: --config and --accelerator."
            )
        )
    fast = faster_than_possible(result)
    lines += [TOO_FAST[name] for name in fast]
    good = within(result.fitted_rows, times=1.0)
    held_out = result.held_out or result.check
    held = held_out is None or within(held_out, times=2.0)
    limits = f"e2e {E2E_MAX:.0%}, TTFT {TTFT_MAX:.0%}, e2e MAPE {MAPE_MAX:.0%}"
    if good and held:
        tested = "" if held_out else "; no requests were left to test it on"
        # What is not identified decides elsewhere: at larger batches, and longer prompts.
        alike = " for loads like these alone" if fast or (unknown and not result.prior) else ""
        lines.append(
            f"verdict: good{alike}, within the limits ({limits}; twice that held out){tested}"
        )
    else:
        which = "the fitted requests" if not good else "requests that were not fitted"
        lines.append(
            f"verdict: not good, {which} are outside the limits ({limits}; twice that held out). "
            + _why_not(result)
        )
    return lines


def _why_not(result: FitResult) -> str:
    """Return what may be the reason where a fit is not good."""
    fitted, later = result.fitted_rows, result.check
    if later and not result.of_table and within(later, times=1.0) and fitted.e2e_error < 0.0:
        # An engine that is not what it is taken for would be off in both.
        return (
            "The 2nd half of the log is within them: did the server compile or load when the 1st "
            "requests came? Leave these out, or measure once it is warm."
        )
    asked = "Are --max-batch, --kv-tokens, --token-budget and --admission those of the server?"
    tpot = fitted.tails.get("tpot")
    if fitted.ttft_error < -LATE_FIRST and tpot and abs(tpot[0]) <= TTFT_MAX:
        asked += (
            " Or does the client leave out tokens of thought (a parser of reasoning)? Tokens "
            "follow each other as this says, and the first ones come far later."
        )
    return asked + (
        "" if result.with_overhead else " Or are the times a client's (--overhead fit)?"
    )


def _score_line(name: str, score: ReplayScore) -> str:
    return f"  {name:<24}{score.e2e_error:>+10.2%}{score.ttft_error:>+11.2%}{score.e2e_mape:>10.2%}"


def perf_parms(result: FitResult) -> dict[str, float | str]:
    """Return what was found under the names of model-data.json; what is of the plain form only if
    it differs from it.
    """
    latency_model = result.latency_model
    found: dict[str, float | str] = dict(_perf_parms(latency_model))
    if latency_model.p != 1.0:
        found |= {
            "a": latency_model.launch_ms,
            "w": latency_model.weights_ms,
            "p": latency_model.p,
        }
    if latency_model.experts_ms:
        found["expertsMs"] = latency_model.experts_ms
        found["expertsIdle"] = latency_model.experts_idle
    if latency_model.attention:
        found["attention"] = latency_model.attention
    if latency_model.sequence_ms:
        found["sequenceMs"] = latency_model.sequence_ms
    if result.family.scheduling != "sync":
        found["scheduling"] = result.family.scheduling
    return found


def _perf_parms(latency_model: LatencyModel) -> dict[str, float]:
    return {
        "alpha": latency_model.alpha_ms,
        "beta": latency_model.beta_ms,
        "gamma": latency_model.gamma_ms,
    }


def _score(score: ReplayScore) -> dict[str, Any]:
    return {
        "requests": score.requests,
        "e2eError": score.e2e_error,
        "ttftError": score.ttft_error,
        "e2eMape": score.e2e_mape,
        "ttftMape": score.ttft_mape,
        "percentileErrors": {
            latency: dict(zip((f"p{each}" for each in PERCENTILES), errors, strict=True))
            for latency, errors in score.tails.items()
            if errors
        },
    }
