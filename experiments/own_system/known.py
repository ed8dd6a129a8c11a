"""What is known of models and GPUs beside the cluster, and which of it is meant by a name. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from experiments.own_system.base import Base
from loop.backends.kube.nodes import known_type
from twin.fit.datasheet import Accelerator
from twin.fit.model_config import ModelFacts

# Words of a model's name that do not tell one architecture from another.
_FILLERS = frozenset(
    {"instruct", "chat", "it", "hf", "meta", "base", "fp8", "awq", "gptq", "bf16", "dynamic"}
    | {"quantized", "int4", "int8", "w4a16", "w8a8", "preview"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known beside the cluster. sheets and configs are by name; config_of says which config
    a model of the cluster has; classes have (ITL, TTFT, priority). base is the data directory that
    is begun with: what it says of accelerators, classes and latency models stays.
    """

    sheets: Mapping[str, Accelerator]
    configs: Mapping[str, ModelFacts]
    config_of: Mapping[str, ModelFacts] = field(default_factory=dict)
    classes: Mapping[str, tuple[float, float, int]] = field(default_factory=dict)
    base: Base | None = None

    @property
    def types(self) -> frozenset[str]:
        """Return the types of GPUs whose names are known."""
        return frozenset(self.sheets) | (self.base.types if self.base else frozenset())


def find_config(model: str, known: Known) -> ModelFacts | None:
    """Return the architecture of *model*: the one that the user says, else the one whose name has
    its words; None if several or none do.
    """
    if model in known.config_of:
        return known.config_of[model]
    asked = _words(model)
    scores: dict[str, int] = {}
    for name in known.configs:
        own = _words(name)
        if asked and own and (own <= asked or asked <= own) and _sizes(own) == _sizes(asked):
            scores[name] = len(own & asked)
    best = [name for name, score in scores.items() if score == max(scores.values())]
    return known.configs[best[0]] if len(best) == 1 else None


def _words(name: str) -> set[str]:
    # 8x7b is also written 8_7b and 8-7b.
    short = re.sub(r"(?<=\d)x(?=\d)", "-", name.rpartition("/")[2].lower())
    return {word for word in re.split(r"[^a-z0-9.]+", short) if word} - _FILLERS


def _sizes(words: set[str]) -> set[str]:
    return {word for word in words if re.fullmatch(r"\d+(?:\.\d+)?b", word)}


def find_sheet(kind: str, sheets: Mapping[str, Accelerator]) -> Accelerator | None:
    """Return the data sheet of GPUs that a node calls *kind*."""
    name = known_type(kind, sheets)
    if name in sheets:
        return sheets[name]
    letters = re.sub(r"[^a-z0-9]", "", kind.lower())
    fitting = [name for name in sheets if re.sub(r"[^a-z0-9]", "", name.lower()) in letters]
    return sheets[max(fitting, key=len)] if fitting and letters else None
