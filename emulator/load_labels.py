"""The load of a server as labels of its Deployment: reading, writing, keeping the original, putting
it back; pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from emulator.walk import OfferedLoad
from twin.magnitudes import figure

SELECTOR = "inferno.server.managed=true"
NAME = "inferno.server.name"
LOAD = "inferno.server.load"
NOMINAL = f"{LOAD}.nominal"
RPM, IN_TOKENS, OUT_TOKENS, TOKENS = "rpm", "intokens", "outtokens", "numtokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledLoad:
    """What the labels of one Deployment say: the load now, the original, and whether that has been
    kept yet.

    older: the tokens are under their older name.
    """

    current: OfferedLoad
    nominal: OfferedLoad
    kept: bool
    older: bool


def read_load(labels: Mapping[str, str]) -> LabelledLoad | None:
    """Return the load that *labels* tell of; None if they tell of none, or of none that makes
    sense.

    What is kept as the original is the original, whatever the load is now.
    """
    older = f"{LOAD}.{OUT_TOKENS}" not in labels and f"{LOAD}.{TOKENS}" in labels
    current = _point(labels, LOAD, tokens=TOKENS if older else OUT_TOKENS)
    kept = _point(labels, NOMINAL, tokens=OUT_TOKENS)
    nominal = kept or current
    if nominal is None:
        return None
    return LabelledLoad(
        current=current or nominal, nominal=nominal, kept=kept is not None, older=older
    )


def labels_of(load: LabelledLoad, point: OfferedLoad) -> dict[str, str | None]:
    """Return the labels that say *point*, and those that keep the original unless that is done."""
    out = TOKENS if load.older else OUT_TOKENS
    written: dict[str, str | None] = {
        f"{LOAD}.{RPM}": rate_text(point.rate_rpm),
        f"{LOAD}.{out}": tokens_text(point.out_tokens),
    }
    # A figure that no label ever gave is not made up.
    if load.nominal.in_tokens > 0:
        written[f"{LOAD}.{IN_TOKENS}"] = tokens_text(point.in_tokens)
    if not load.kept:
        written |= _nominal_labels(load.nominal)
    return written


def restored_labels(load: LabelledLoad) -> dict[str, str | None]:
    """Return the labels that put the original back, and forget that it was kept (None deletes)."""
    back = labels_of(
        LabelledLoad(current=load.nominal, nominal=load.nominal, kept=True, older=load.older),
        load.nominal,
    )
    return {**back, **dict.fromkeys(_nominal_labels(load.nominal))}


def rate_text(rate_rpm: float) -> str:
    """Return a rate as a label: two decimals at most."""
    return f"{rate_rpm:.2f}".rstrip("0").rstrip(".")


def tokens_text(tokens: float) -> str:
    """Return a mean number of tokens as a label: a whole number."""
    return str(round(tokens))


def says(labels: Mapping[str, str], written: Mapping[str, str | None]) -> bool:
    """Tell whether *labels* still say what was *written*: else somebody has set the load since."""
    return all(labels.get(key) == value for key, value in written.items() if value is not None)


def _nominal_labels(nominal: OfferedLoad) -> dict[str, str]:
    kept = {
        f"{NOMINAL}.{RPM}": rate_text(nominal.rate_rpm),
        f"{NOMINAL}.{OUT_TOKENS}": tokens_text(nominal.out_tokens),
    }
    if nominal.in_tokens > 0:
        kept[f"{NOMINAL}.{IN_TOKENS}"] = tokens_text(nominal.in_tokens)
    return kept


def _point(labels: Mapping[str, str], prefix: str, *, tokens: str) -> OfferedLoad | None:
    """Return the offered load under *prefix*; tokens that no label gives are 0."""
    if f"{prefix}.{RPM}" not in labels:
        return None
    rate, in_tokens, out_tokens = (
        figure(labels.get(f"{prefix}.{key}", "0")) for key in (RPM, IN_TOKENS, tokens)
    )
    if rate is None or in_tokens is None or out_tokens is None:
        return None
    return OfferedLoad(rate_rpm=rate, in_tokens=in_tokens, out_tokens=out_tokens)
