"""The latency model of an engine without a log: from the config.json of its model and the data
sheet of its accelerator.

    alpha = K1 · weights / (TP · bandwidth) + K2 · layers + exchange
    exchange = K3 · layers · (1 + log2 TP) / 2 if TP > 1, else 0
    beta  = K4 · 2 · active parameters / (TP · FLOPS) + K6 · bytes exchanged for a token / link
    gamma = K5 · KV bytes of a token / (TP · bandwidth)
    attention = K7 · FLOPs of a token with one before it / FLOPs of its parameters

The GPUs of a replica add up what each found, twice a layer: that takes a time of its own, longer of
more GPUs, and each token's values go over their links. Bandwidth and FLOPS are those of the data
sheet, times what the accelerator was measured to reach of them beside the others (1 where nobody
measured). These and the constants come from measurements of real servers, by
experiments/validation/datasheet_constants.py; docs/validation.md says how well models are predicted
that did not help to set them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log2
from pathlib import Path
from typing import Literal

from twin.datafile import Entry, did_you_mean, read_json
from twin.fit.model_config import UNMEASURED, ModelFacts
from twin.spec import LatencyModel, SpecError

Dtype = Literal["bf16", "fp8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What the formulas above leave open; k2, k3 in ms a layer, overhead in ms a request.

    exchange_ms is of two GPUs, link of one direction of it.
    """

    weights: float
    layer_ms: float
    exchange_ms: float
    compute: float
    kv: float
    overhead_ms: float
    link: float


CONSTANTS = Constants(
    weights=1.188,
    layer_ms=0.0404,
    exchange_ms=0.0178,
    compute=1.344,
    kv=1.153,
    overhead_ms=8.05,
    link=1.768,
)
# What the host does for each request of an iteration [ms] while the GPU waits: of one H100, and
# more of several. 0 with asynchronous scheduling.
SEQUENCE_MS = 0.015
# How much longer a FLOP takes that compares tokens than one of the weights: two sweeps over prompts
# of 64 to 4,096 tokens say 2, each by itself.
ATTENTION = 2.0
# One standard deviation of the logarithm of alpha, beta and gamma about what the formulas say:
# what a fit takes for the width of its prior. Beta is known least, as most logs hardly show it.
# Below it gamma is known best: nothing reads faster than the bandwidth, and what was measured on
# five GPUs reads at 89 to 99 % of it. Slower an engine may always be.
SPREADS = (0.15, 0.30, 0.25)
SPREADS_BELOW = (0.15, 0.30, 0.10)

# Median errors over load stages of models that did not help to set the constants.
EXPECTED_E2E, EXPECTED_TTFT = 0.03, 0.07

PCIE_GBS = 128.0  # of its fifth generation, both directions
MEMORY_SHARE = 0.9  # vLLM's gpu_memory_utilization
BLOCK = 16
# Code, CUDA graphs and workspace of an engine beside weights and activations: with it the rule
# gives within 1.5 % the KV capacity that vLLM reported on an RTX 4090 and on an H100.
ENGINE_BYTES = 1.4e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One row of the table of data sheets; bandwidth, and that of its links to the other GPUs of a
    server, both directions together, in GB/s; dense TFLOPS by precision.

    reached is the part of both that was measured, where 1 is what accelerators usually reach; None
    if nobody measured.
    """

    name: str
    full_name: str
    vendor: str
    memory_gb: float
    memory_mib: float
    bandwidth_gbs: float
    link_gbs: float
    tflops: Mapping[str, float] = field(hash=False)
    power_w: float
    price_cents: float
    is_workstation: bool
    source: str
    price_source: str
    price_date: str
    reached: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSheetModel:
    """What the formulas say of a model on an accelerator.

    kv_tokens is the KV capacity of a replica of *tp* GPUs, 0 if the weights do not fit. weak says
    why the figures may be further off than usual. expected_e2e and expected_ttft are the usual
    errors, or the largest that was seen of what is weak; is_unmeasured: nobody has seen how far
    off something of it may be.
    """

    model: ModelFacts
    accelerator: Accelerator
    tp: int
    dtype: Dtype
    latency_model: LatencyModel
    overhead_ms: float
    kv_tokens: int
    weights_gb: float
    weak: tuple[str, ...]
    expected_e2e: float = EXPECTED_E2E
    expected_ttft: float = EXPECTED_TTFT
    is_unmeasured: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what an engine has to be told for it to be so."""
        if not 0 < self.kv_tokens < self.model.context:
            return ()
        return (
            f"its context of {self.model.context:,} tokens is larger than the KV cache: vLLM "
            f"starts with --max-model-len {self.kv_tokens} or less",
        )


def estimate(
    model: ModelFacts,
    accelerator: Accelerator,
    *,
    tp: int = 1,
    dtype: Dtype | None = None,
    max_batch: int = 256,
    token_budget: int = 8192,
    constants: Constants = CONSTANTS,
) -> DataSheetModel:
    """Return the latency model of *model* on *tp* GPUs of *accelerator*.

    dtype None is that of the file. max_batch and token_budget take memory from the KV cache.
    """
    precision: Dtype = dtype or ("fp8" if model.is_fp8 else "bf16")
    bytes_each = model.weight_bytes if dtype is None else (1.0 if dtype == "fp8" else 2.0)
    # An accelerator without fp8 units computes at 16 bits, from weights that are read as fp8.
    tflops = accelerator.tflops.get(precision, accelerator.tflops["bf16"])
    weights = model.parameters * bytes_each
    if dtype == "fp8":
        weights += model.tables  # engines leave the tables of words at 16 bits
    experts = model.routed * (model.expert_bytes if dtype is None else bytes_each)
    reached = accelerator.reached or 1.0
    bandwidth = reached * accelerator.bandwidth_gbs * 1e9
    flops = reached * tflops * 1e12
    alpha_ms = constants.weights * weights / (tp * bandwidth) * 1e3
    alpha_ms += (constants.layer_ms + _exchange_ms(tp, constants)) * model.layers
    computing_ms = constants.compute * 2.0 * model.active / (tp * flops) * 1e3
    linked_ms = constants.link * _exchanged(model, tp) / (accelerator.link_gbs * 1e9 / 2.0) * 1e3
    kv_bytes = model.kv_values * (model.kv_value_bytes if dtype is None else 2.0)
    weak = _weak(model, accelerator, precision=precision, tp=tp)
    largest = max((seen or 0.0 for _, seen in weak), default=0.0)
    # A head is not split: with more GPUs than heads each GPU keeps a copy.
    kv_split = min(tp, model.kv_heads)
    return DataSheetModel(
        model=model,
        accelerator=accelerator,
        tp=tp,
        dtype=precision,
        latency_model=LatencyModel(
            alpha_ms=alpha_ms,
            beta_ms=computing_ms + linked_ms,
            gamma_ms=constants.kv * kv_bytes / (kv_split * bandwidth) * 1e3,
            experts_ms=constants.weights * experts / (tp * bandwidth) * 1e3,
            experts_idle=1.0 - model.used / model.experts if model.experts else 0.0,
            attention=attention(model) * computing_ms / (computing_ms + linked_ms),
        ),
        overhead_ms=constants.overhead_ms,
        kv_tokens=_kv_tokens(
            model,
            accelerator,
            weights=weights / tp,
            kv_bytes=kv_bytes / kv_split,
            max_batch=max_batch,
            token_budget=token_budget,
        ),
        weights_gb=weights / 1e9,
        weak=(*model.weak, *(reason for reason, _ in weak)),
        expected_e2e=max(EXPECTED_E2E, largest),
        expected_ttft=max(EXPECTED_TTFT, largest),
        is_unmeasured=any(seen is None for _, seen in weak)
        or any(UNMEASURED in reason for reason in model.weak),
    )


def attention(model: ModelFacts) -> float:
    """Return by which share of beta a token takes longer for each token of its prompt before it."""
    # Two FLOPs for each value of a query and of what is added up, as for each parameter.
    return ATTENTION * model.compared / model.active


def _exchange_ms(tp: int, constants: Constants) -> float:
    """Return what it takes *tp* GPUs to add up what each found of a layer, however few tokens."""
    return constants.exchange_ms * (1.0 + log2(tp)) / 2.0 if tp > 1 else 0.0


def _exchanged(model: ModelFacts, tp: int) -> float:
    """Return the bytes that each of *tp* GPUs sends for a token: two sums a layer, of values of 16
    bits, each of which goes round nearly twice.
    """
    return 2.0 * model.layers * model.hidden * 2.0 * 2.0 * (tp - 1) / tp


def _kv_tokens(
    model: ModelFacts,
    accelerator: Accelerator,
    *,
    weights: float,
    kv_bytes: float,
    max_batch: int,
    token_budget: int,
) -> int:
    """Return what fits in whole blocks beside the weights and the activations of one iteration."""
    activations = token_budget * model.intermediate * 2.0 * 2.0 + max_batch * model.vocabulary * 4.0
    memory = MEMORY_SHARE * accelerator.memory_mib * 2.0**20
    free = memory - weights - activations - ENGINE_BYTES
    return max(int(free / kv_bytes) // BLOCK * BLOCK, 0)


def _weak(
    model: ModelFacts, accelerator: Accelerator, *, precision: Dtype, tp: int
) -> Sequence[tuple[str, float | None]]:
    """Return why the figures may be further off, each with the largest error that was seen of such
    (None if nobody measured).
    """
    said: list[tuple[str, float | None]] = []
    if model.experts and precision == "fp8":
        said.append(("a mixture of experts in fp8: the time of a token was off by 37 to 50 %", 0.5))
    elif model.experts and model.expert_bytes < 1.0:
        said.append(("a mixture of experts in 4 bits: the time of a token was 8 to 13 % off", 0.13))
    if accelerator.is_workstation:
        said.append(("a workstation GPU: its FLOPS mislead, errors of 21 to 49 % were seen", 0.49))
    if accelerator.name in ("H200", "B200"):
        reason = "no measurement of this GPU was used; from H100 by the data sheet: 18 % off"
        said.append((reason, 0.18))
    elif accelerator.vendor == "NVIDIA" and accelerator.reached is None:
        said.append(("no measurement of this GPU was used: others were 2 to 11 % off so", 0.11))
    if accelerator.vendor != "NVIDIA":
        said.append((f"no measurement of {accelerator.vendor} accelerators was used", None))
    if precision not in accelerator.tflops:
        said.append((f"it has no {precision} units: computed at 16 bits", 0.0))
    if not model.is_split_by(tp):
        heads = f"{model.heads} heads and {model.kv_heads} KV heads"
        said.append((f"{tp} GPUs cannot share its {heads} evenly: most engines do not start", None))
    if tp > 8:
        said.append(("no measurement with more than 8 GPUs was used", None))
    if tp > 1 and accelerator.link_gbs <= PCIE_GBS:
        said.append(("no measurement of GPUs that exchange over PCIe was used", None))
    return said


# -- the files


def read_accelerators(path: Path) -> dict[str, Accelerator]:
    """Return the table of data sheets at *path*, by name."""
    document = read_json(path)
    entry = Entry(document, source=str(path))
    entry.ignore("notes")
    found = {}
    for row in entry.children("accelerators"):
        tflops = row.child("tflops")
        if tflops is None:
            raise row.fail("tflops", expected="an object {…}", found=None)
        speeds = {
            name: tflops.number(name, above=0.0)
            for name in ("bf16", "fp8")
            if name == "bf16" or tflops.has(name)
        }
        accelerator = Accelerator(
            name=row.text("name"),
            full_name=row.text("fullName"),
            vendor=row.text("vendor"),
            memory_gb=row.number("memoryGB", above=0.0),
            memory_mib=row.number("memoryMiB", above=0.0),
            bandwidth_gbs=row.number("bandwidthGBs", above=0.0),
            link_gbs=row.number("linkGBs", above=0.0),
            tflops=speeds,
            power_w=row.number("powerW", above=0.0),
            price_cents=row.number("priceCentsPerHour", at_least=0.0),
            is_workstation=row.text("class") == "workstation",
            source=row.text("source"),
            price_source=row.text("priceSource", default="estimate"),
            price_date=row.text("priceDate", default=""),
            reached=row.number("reached", above=0.0) if row.has("reached") else None,
        )
        found[accelerator.name] = accelerator
    return found


def find_accelerator(table: Mapping[str, Accelerator], name: str) -> Accelerator:
    """Return the accelerator *name* of *table*, in any case; raise SpecError if there is none."""
    for known, accelerator in table.items():
        if known.lower() == name.lower():
            return accelerator
    raise SpecError(
        f"accelerator: expected one of {', '.join(table)}, found {name[:60]!r}"
        f"{did_you_mean(name, tuple(table))}"
    )
