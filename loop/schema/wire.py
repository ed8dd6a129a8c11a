"""The messages of the existing Go components, as they are read and written; what they mean is
decided elsewhere.

A key may come in any case; null and what is absent are zero, as Go reads them, and every field is
written out. Figures are finite, not negative and at most 1e12. Fields of before 2025-09 are read as
those of today (docs/optimizer-rest.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator
from pydantic.alias_generators import to_camel

from twin.spec import SpecError

LARGEST_FIGURE = 1e12
LARGEST_WHOLE = 10**9
LONGEST_FOUND = 60  # characters of a wrong value that an error line repeats


def _whole_of(value: object) -> object:
    """Return 8 for 8.0: both are whole."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _short(value: float) -> float | int:
    """Return 8 for 8.0: a Go reader of a whole number takes no other."""
    return int(value) if value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole_of), Field(ge=0, le=LARGEST_WHOLE)]
Figure = Annotated[
    float, PlainSerializer(_short), Field(ge=0.0, le=LARGEST_FIGURE, allow_inf_nan=False)
]
Name = Annotated[str, Field(min_length=1)]


class Message(BaseModel):
    """A JSON object of the Go components; its fields are named as ours, its keys as theirs."""

    model_config = ConfigDict(
        frozen=True, strict=True, alias_generator=to_camel, populate_by_name=True
    )
    older_keys: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _read_keys(cls, given: Any) -> Any:
        """Return *given* with keys in their own spelling, and without those whose value is null."""
        if not isinstance(given, Mapping):
            return given
        spelling = _spelling(cls)
        named = {str(key): value for key, value in given.items() if value is not None}
        return cls.of_today({spelling.get(key.lower(), key): value for key, value in named.items()})

    @classmethod
    def of_today(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Return *given* with what older files called otherwise under its name of today."""
        return given


@cache
def _spelling(message: type[Message]) -> dict[str, str]:
    """Return the key of every field by its small letters; older keys too, of those messages that
    know some.
    """
    keys = [field.alias or name for name, field in message.model_fields.items()]
    return {key.lower(): key for key in (*keys, *message.older_keys)}


class Power(Message):
    """Power of an accelerator [W]; mid_util is the utilisation at mid_power."""

    idle: Figure = 0.0
    full: Figure = 0.0
    mid_power: Figure = 0.0
    mid_util: Figure = 0.0


class AcceleratorSpec(Message):
    """An accelerator: so many GPUs of a type, at a cost [cents/h]; memory in GB and GB/s."""

    name: Name
    type: str = ""
    multiplicity: Whole = 0
    mem_size: Figure = 0.0
    mem_bw: Figure = Field(default=0.0, alias="memBW")
    power: Power = Power()
    cost: Figure = 0.0


class AcceleratorData(Message):
    """All accelerators."""

    accelerators: list[AcceleratorSpec] = []


class AcceleratorCount(Message):
    """How many GPUs of a type there are."""

    type: Name
    count: Whole = 0


class CapacityData(Message):
    """The capacity, by type."""

    count: list[AcceleratorCount] = []


class PerfParms(Message):
    """The latency model of an iteration: alpha [ms] + beta [ms/token] · tokens + gamma [ms/token] ·
    KV tokens.
    """

    alpha: Figure = 0.0
    beta: Figure = 0.0
    gamma: Figure = 0.0


class ModelAcceleratorPerfData(Message):
    """How a model performs on an accelerator."""

    name: Name
    acc: Name
    acc_count: Whole = 0
    max_batch_size: Whole = 0
    at_tokens: Whole = 0
    perf_parms: PerfParms = PerfParms()
    older_keys: ClassVar[tuple[str, ...]] = ("alpha", "beta")

    @classmethod
    def of_today(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Take alpha and beta of the row itself for those of a latency model without gamma."""
        if "perfParms" not in given and ("alpha" in given or "beta" in given):
            given["perfParms"] = {key: given[key] for key in ("alpha", "beta") if key in given}
        return given


class ModelData(Message):
    """All models: a row for each on each accelerator."""

    models: list[ModelAcceleratorPerfData] = []


class ModelTarget(Message):
    """The objectives of a model: ITL and TTFT [ms], tokens per second; 0 is none."""

    model: Name
    slo_itl: Figure = Field(default=0.0, alias="slo-itl")
    slo_ttft: Figure = Field(default=0.0, alias="slo-ttft")
    slo_tps: Figure = Field(default=0.0, alias="slo-tps")
    older_keys: ClassVar[tuple[str, ...]] = ("slo-ttw",)

    @classmethod
    def of_today(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Take the target of waiting for that of the time to the first token, which contains it."""
        if "slo-ttft" not in given and "slo-ttw" in given:
            given["slo-ttft"] = given["slo-ttw"]
        return given


class ServiceClassSpec(Message):
    """A service class: priority 1 (highest) to 100, and its objectives by model."""

    name: Name
    priority: Whole = 0
    model_targets: list[ModelTarget] = []
    older_keys: ClassVar[tuple[str, ...]] = ("model", "slo-itl", "slo-ttft", "slo-tps", "slo-ttw")

    @classmethod
    def of_today(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Take a row with a model for a class with one target."""
        if "modelTargets" not in given and "model" in given:
            target = {key: value for key, value in given.items() if key not in {"name", "priority"}}
            given["modelTargets"] = [target]
        return given


class ServiceClassData(Message):
    """All service classes."""

    service_classes: list[ServiceClassSpec] = []


class ServerLoad(Message):
    """The load of a server: arrivals and completions [requests/min], mean tokens of a request."""

    arrival_rate: Figure = 0.0
    throughput: Figure = 0.0
    avg_in_tokens: Figure = 0.0
    avg_out_tokens: Figure = 0.0
    older_keys: ClassVar[tuple[str, ...]] = ("avgLength", "numTokens")

    @classmethod
    def of_today(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Take the one length that a request had for its output."""
        for older in ("avgLength", "numTokens"):
            if "avgOutTokens" not in given and older in given:
                given["avgOutTokens"] = given[older]
        return given


class AllocationData(Message):
    """What a server has or shall have; cost in cents/h, latencies in ms (null: they have no
    bound).
    """

    accelerator: str = ""
    num_replicas: Whole = 0
    max_batch: Whole = 0
    cost: Figure = 0.0
    itl_average: Figure | None = 0.0
    ttft_average: Figure | None = 0.0
    load: ServerLoad = ServerLoad()


class ServerSpec(Message):
    """A server: what it is, what it may be given, what it has, and what the optimizer gave it
    last.
    """

    name: Name
    service_class: str = Field(default="", alias="class")
    model: str = ""
    keep_accelerator: bool = False
    min_num_replicas: Whole = 0
    max_batch_size: Whole = 0
    max_queue_size: Whole = 0
    current_alloc: AllocationData = AllocationData()
    desired_alloc: AllocationData = AllocationData()


class ServerData(Message):
    """All servers."""

    servers: list[ServerSpec] = []


class OptimizerSpec(Message):
    """The flags of one optimisation. milp_solver and use_cplex are read and mean nothing."""

    unlimited: bool = False
    heterogeneous: bool = False
    milp_solver: bool = False
    use_cplex: bool = False
    delayed_best_effort: bool = False
    saturation_policy: str = ""


class OptimizeRequest(OptimizerSpec):
    """The flags as POST /optimize takes them: flat, or in their wrapper."""

    optimizer: OptimizerSpec | None = None


class OptimizerData(Message):
    """The flags, in their wrapper."""

    optimizer: OptimizerSpec = OptimizerSpec()


class SystemSpec(Message):
    """A whole system."""

    accelerator_data: AcceleratorData = AcceleratorData()
    model_data: ModelData = ModelData()
    service_class_data: ServiceClassData = ServiceClassData()
    server_data: ServerData = ServerData()
    optimizer_data: OptimizerData = OptimizerData()
    capacity_data: CapacityData = CapacityData()


class SystemData(Message):
    """A whole system, in its wrapper."""

    system: SystemSpec = SystemSpec()


class Part(Message):
    """Replicas of one accelerator, where a server has several."""

    accelerator: str
    num_replicas: int
    max_batch: int
    cost: float


class ExplainedAllocation(AllocationData):
    """What a server shall have, and why; value is cost with the penalty of the change [cents/h]."""

    value: float
    reason: str
    details: dict[str, Any]
    parts: list[Part] = []


class AllocationSolution(Message):
    """The answer of the existing optimizer."""

    allocations: dict[str, AllocationData]


class ExplainedSolution(Message):
    """The whole answer: who gets what, who gets nothing and why, and how far it may be from the
    best.

    gap: relative, null where nobody knows; optimal: proven.
    """

    allocations: dict[str, ExplainedAllocation]
    unallocated: dict[str, str]
    total_cost: float
    total_value: float
    gap: float | None
    optimal: bool
    note: str = ""


class Problem(Message):
    """Why a request was refused, in one line."""

    message: str


# What Go reads as zero where it is absent, and what nobody means to be zero by saying nothing.
ESSENTIAL: Mapping[type[Message], tuple[str, ...]] = {
    AcceleratorSpec: ("cost",),
    AcceleratorCount: ("count",),
    ModelAcceleratorPerfData: ("max_batch_size", "at_tokens", "perf_parms"),
    PerfParms: ("alpha", "beta"),
    ServerLoad: ("arrival_rate", "avg_out_tokens"),
}


def require_essentials(message: Message, *, place: str = "body") -> None:
    """Raise SpecError at the first figure that was not said in *message* and cannot be zero for
    that.
    """
    for name in ESSENTIAL.get(type(message), ()):
        if name not in message.model_fields_set:
            raise SpecError(f"{place}.{_key(type(message), name)}: expected a value, found nothing")
    for name in sorted(message.model_fields_set):
        value, here = getattr(message, name), f"{place}.{_key(type(message), name)}"
        for index, each in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(each, Message):
                require_essentials(
                    each, place=f"{here}[{index}]" if isinstance(value, list) else here
                )


def _key(message: type[Message], name: str) -> str:
    return message.model_fields[name].alias or name


def written(message: Message) -> dict[str, Any]:
    """Return *message* as the JSON object that a Go component reads."""
    return message.model_dump(mode="json", by_alias=True)


def given(message: Message) -> dict[str, Any]:
    """Return what was said in *message*: without the zeros that stand for what was not."""
    return message.model_dump(mode="json", by_alias=True, exclude_unset=True)


def error_line(error: Mapping[str, Any]) -> str:
    """Return one of the errors that pydantic lists, as one line that names its place."""
    place = ""
    for part in error["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
    if error["type"] == "missing":
        return f"{place}: expected a value, found nothing"
    says = " ".join(str(error["msg"]).removeprefix("Input should be ").split())
    if error["type"] in {"model_type", "model_attributes_type", "dict_type"}:
        says = "an object {…}"
    return f"{place or 'body'}: expected {says}, found {_found(error.get('input'))}"


def _found(value: object) -> str:
    text = (
        "an object"
        if isinstance(value, Mapping)
        else "a list"
        if isinstance(value, list)
        else json.dumps(value, default=str)
    )
    return text if len(text) <= LONGEST_FOUND else text[:LONGEST_FOUND] + "…"
