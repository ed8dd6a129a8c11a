"""The JSON of the Go components, and of our data files: what keys there are, and what may stand
under them. How they are read is in parsing.py, what they mean in reading.py.

A key may come in any case; null and what is absent are zero, as Go reads them, and every field is
written out. Figures are finite, not negative and at most 1e12. Spellings of before 2025-09 are read
as those of today (docs/optimizer-rest.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import core_schema

from twin.magnitudes import LARGEST_FIGURE, LARGEST_WHOLE
from twin.spec import SCHEDULINGS, TOKENS_PER_STEP_MAX

# How much must be said. go: what is absent is zero, as the existing components read a message.
# ours: what nobody means to be zero by saying nothing must be there. files: ranges hold, too.
Level = Literal["go", "ours", "files"]
LEVELS: tuple[Level, ...] = ("go", "ours", "files")

PRIORITY_LOWEST = 100
# The percentiles of latencies that an objective may bound, in the order in which they are read.
PERCENTILE_TARGETS: tuple[tuple[Literal["ttft", "itl"], int], ...] = tuple(
    (latency, percentile) for latency in ("ttft", "itl") for percentile in (50, 90, 95, 99)
)
SATURATION_POLICIES = ("None", "PriorityExhaustive", "PriorityRoundRobin", "RoundRobin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a field must satisfy beside its type.

    needed: from this level on it must be said. choices hold from "ours" on (in any case of letters;
    an empty text is none), bounds in "files". expected: what an error says belongs there. echoed:
    what stands below is told again, and nothing else is done with it.
    """

    needed: Level | None = None
    at_least: int | None = None
    at_most: int | None = None
    choices: tuple[str, ...] = ()
    expected: str = ""
    echoed: bool = False


class _IntegerOrFloat:
    """Lets 8.0 be 8 where a whole number belongs, and "8" and true be none."""

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        # Without a function of Python in it: there are some hundred whole numbers in a message.
        from_float = core_schema.chain_schema(
            [core_schema.float_schema(strict=True), core_schema.int_schema(strict=False)]
        )
        whole = core_schema.union_schema(
            [core_schema.int_schema(strict=True), from_float],
            mode="left_to_right",
            custom_error_type="int_type",
        )
        return core_schema.chain_schema([whole, handler(source)])


def _short(value: float) -> float | int:
    """Return 8 for 8.0: a Go reader of a whole number takes no other."""
    return int(value) if value.is_integer() else value


Whole = Annotated[
    int,
    Field(ge=0, le=LARGEST_WHOLE),
    _IntegerOrFloat,
    WithJsonSchema({"type": "integer", "minimum": 0, "maximum": LARGEST_WHOLE}),
]
Figure = Annotated[
    float, PlainSerializer(_short), Field(ge=0.0, le=LARGEST_FIGURE, allow_inf_nan=False)
]
Name = Annotated[str, Field(min_length=1)]

NeededWhole = Annotated[Whole, Rule(needed="ours")]
NeededFigure = Annotated[Figure, Rule(needed="ours")]
WholeFromOne = Annotated[Whole, Rule(at_least=1)]
NeededFromOne = Annotated[Whole, Rule(needed="ours", at_least=1)]
InFiles = Rule(needed="files")


def ours_alone(*, alias: str | None = None) -> Any:
    """Return a field that only ours has: it is written only if it is given."""
    return Field(default=None, alias=alias, exclude_if=lambda value: value is None)


class Message(BaseModel):
    """A JSON object of the Go components; its fields are named as ours, its keys as theirs.

    label: the keys whose values name it where it stands in a list. older: keys of before, which
    of_today turns into those of today. unused: keys that are known and mean nothing. wrapper: the
    field that may hold all the others.
    """

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        alias_generator=to_camel,
        populate_by_name=True,
    )
    label: ClassVar[tuple[str, ...]] = ("name",)
    older: ClassVar[tuple[str, ...]] = ()
    unused: ClassVar[tuple[str, ...]] = ()
    wrapper: ClassVar[str] = ""

    @classmethod
    def of_today(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Return *given* with what stands under an older key under its key of today."""
        return given


class Power(Message):
    """Power of an accelerator [W]; mid_util is the utilisation at mid_power."""

    idle: Figure = 0.0
    full: Figure = 0.0
    mid_power: Figure = 0.0
    mid_util: Annotated[Figure, Rule(at_most=1)] = 0.0


class AcceleratorSpec(Message):
    """An accelerator: so many GPUs of a type, at a cost [cents/h]; memory in GB and GB/s."""

    name: Name
    type: str = ""
    multiplicity: WholeFromOne = 0
    mem_size: Figure = 0.0
    mem_bw: Figure = Field(default=0.0, alias="memBW")
    power: Power = Field(default_factory=Power)
    cost: NeededFigure = 0.0


class AcceleratorData(Message):
    """All accelerators."""

    accelerators: Annotated[list[AcceleratorSpec], InFiles] = []


class AcceleratorCount(Message):
    """How many GPUs of a type there are."""

    type: Name
    count: NeededWhole = 0
    label: ClassVar[tuple[str, ...]] = ("type",)


class CapacityData(Message):
    """The capacity, by type."""

    count: Annotated[list[AcceleratorCount], InFiles] = []


class PerfParms(Message):
    """The latency model of an iteration: alpha [ms] + beta [ms/token] · tokens + gamma [ms/token] ·
    KV tokens.

    Ours besides, which the Go tools ignore: a and w [ms] divide alpha into launching and reading
    the weights, p makes a soft roofline of the sum; experts_ms and experts_idle tell the experts of
    a mixture that few tokens leave unread, attention what a token of a long prompt takes longer,
    sequence_ms what the host does for each request of an iteration (twin.spec.LatencyModel);
    scheduling and tokens_per_step are those of twin.spec.EngineSpec, overhead_ms what a request
    spends outside the engine.
    """

    alpha: NeededFigure = 0.0
    beta: NeededFigure = 0.0
    gamma: Annotated[Figure, InFiles] = 0.0
    a: Figure | None = ours_alone()
    w: Figure | None = ours_alone()
    scheduling: Annotated[str | None, Rule(choices=SCHEDULINGS)] = ours_alone()
    p: Annotated[Figure | None, Rule(at_least=1, at_most=100)] = ours_alone()
    experts_ms: Figure | None = ours_alone()
    experts_idle: Annotated[Figure | None, Rule(at_least=0, at_most=1)] = ours_alone()
    attention: Annotated[Figure | None, Rule(at_least=0, at_most=1)] = ours_alone()
    sequence_ms: Figure | None = ours_alone()
    overhead_ms: Figure | None = ours_alone()
    tokens_per_step: Annotated[Figure | None, Rule(at_least=1, at_most=TOKENS_PER_STEP_MAX)] = (
        ours_alone()
    )


class ModelAcceleratorPerfData(Message):
    """How a model performs on an accelerator."""

    name: Name
    acc: Name
    acc_count: WholeFromOne = 0
    max_batch_size: NeededFromOne = 0
    at_tokens: NeededFromOne = 0
    perf_parms: Annotated[
        PerfParms, Rule(needed="ours", expected="an object {alpha, beta, gamma}")
    ] = Field(default_factory=PerfParms)
    # Ours: the KV capacity of a replica [tokens], which caps its batch; the Go service has none.
    kv_tokens: Whole | None = ours_alone()
    label: ClassVar[tuple[str, ...]] = ("name", "acc")
    older: ClassVar[tuple[str, ...]] = ("alpha", "beta")

    @classmethod
    def of_today(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Take alpha and beta of the row itself for those of a latency model without gamma."""
        early = {key: given.pop(key) for key in cls.older if key in given}
        if early and "perfParms" not in given:
            given["perfParms"] = {**early, "gamma": 0.0}
        return given


class ModelData(Message):
    """All models: a row for each on each accelerator."""

    models: Annotated[list[ModelAcceleratorPerfData], InFiles] = []


class ModelTarget(Message):
    """The objectives of a model: ITL and TTFT [ms], tokens per second; 0 is none.

    slo_ttw, of before, bounds the wait [ms]. It is read, and not written. Ours besides, which the
    Go tools ignore: bounds of a percentile of the requests of a minute [ms].
    """

    model: Name
    slo_itl: Figure = Field(default=0.0, alias="slo-itl")
    slo_ttft: Figure = Field(default=0.0, alias="slo-ttft")
    slo_tps: Figure = Field(default=0.0, alias="slo-tps")
    slo_ttw: Figure = Field(default=0.0, alias="slo-ttw", exclude=True)
    slo_ttft_p50: Figure | None = ours_alone(alias="slo-ttft-p50")
    slo_ttft_p90: Figure | None = ours_alone(alias="slo-ttft-p90")
    slo_ttft_p95: Figure | None = ours_alone(alias="slo-ttft-p95")
    slo_ttft_p99: Figure | None = ours_alone(alias="slo-ttft-p99")
    slo_itl_p50: Figure | None = ours_alone(alias="slo-itl-p50")
    slo_itl_p90: Figure | None = ours_alone(alias="slo-itl-p90")
    slo_itl_p95: Figure | None = ours_alone(alias="slo-itl-p95")
    slo_itl_p99: Figure | None = ours_alone(alias="slo-itl-p99")
    label: ClassVar[tuple[str, ...]] = ("model",)
    older: ClassVar[tuple[str, ...]] = ("slo-ttw",)

    @classmethod
    def of_today(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Let the target of waiting bound the time to the first token, which contains it."""
        if "slo-ttft" not in given and "slo-ttw" in given:
            given["slo-ttft"] = given["slo-ttw"]
        return given


class ServiceClassSpec(Message):
    """A service class: priority 1 (highest) to 100, and its objectives by model.

    A row of before has one target, and several rows make a class. model, not empty, tells such a
    row from those of today; it is not written. Ours besides, which the Go tools ignore:
    slo_percentile, the share of requests that shall meet them, and value_per_met_request [cents].
    """

    name: Name
    priority: Annotated[Whole, Rule(at_least=1, at_most=PRIORITY_LOWEST)] = 0
    slo_percentile: Figure | None = ours_alone(alias="slo-percentile")
    value_per_met_request: Figure | None = ours_alone()
    model_targets: list[ModelTarget] = []
    model: str = Field(default="", exclude=True)
    older: ClassVar[tuple[str, ...]] = ("model", "slo-itl", "slo-ttft", "slo-tps", "slo-ttw")

    @classmethod
    def of_today(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Take a row with a model for a class with one target."""
        early = {key: given.pop(key) for key in cls.older if key in given}
        if "modelTargets" not in given and "model" in early:
            given["modelTargets"] = [ModelTarget.of_today(dict(early))]
            given["model"] = early["model"]
        return given


class ServiceClassData(Message):
    """All service classes."""

    service_classes: Annotated[list[ServiceClassSpec], InFiles] = []


class ServerLoad(Message):
    """The load of a server: arrivals and completions [requests/min], mean tokens of a request."""

    arrival_rate: NeededFigure = 0.0
    throughput: Figure = 0.0
    avg_in_tokens: Annotated[Figure, InFiles] = 0.0
    avg_out_tokens: NeededFigure = 0.0
    # Ours: the same, not rounded to the whole numbers that the Go components read.
    in_tokens: Figure | None = ours_alone()
    out_tokens: Figure | None = ours_alone()
    older: ClassVar[tuple[str, ...]] = ("avgLength", "numTokens")

    @classmethod
    def of_today(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Take the one length that a request had for its output: tokens were made one an
        iteration.
        """
        early = [given.pop(key) for key in cls.older if key in given]
        return {"avgInTokens": 0.0, "avgOutTokens": early[0], **given} if early else given


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
    load: ServerLoad = Field(default_factory=ServerLoad)
    unused: ClassVar[tuple[str, ...]] = ("waitAverage", "avgConcurrency")


class ServerSpec(Message):
    """A server: what it is, what it may be given, what it has, and what the optimizer gave it
    last.
    """

    name: Name
    service_class: str = Field(default="", alias="class")
    model: Annotated[str, InFiles] = ""
    keep_accelerator: bool = False
    min_num_replicas: Whole = 0
    # Ours: the Go service knows a lower bound only.
    max_num_replicas: Annotated[Whole | None, Rule(at_least=1)] = ours_alone()
    max_batch_size: Whole = 0
    max_queue_size: Whole = 0
    # Ours: the tokens of a prompt that need no prefill; the Go service knows no prefix cache.
    cached_tokens: Figure | None = ours_alone()
    # Ours: of the KV cache, what each request of a batch is to have; the Go service knows no cache.
    held_tokens: Figure | None = ours_alone()
    # Ours: accelerators of so many GPUs, and of these types, alone are considered.
    gpus_per_replica: Annotated[Whole | None, Rule(at_least=1)] = ours_alone()
    accelerator_types: list[Name] | None = ours_alone()
    # Ours: the coefficient of variation of the tokens of a request; the Go service knows means.
    token_cv: Figure | None = ours_alone()
    # Ours: that of the time between arrivals; the Go service takes them for a Poisson process.
    arrival_cv: Figure | None = ours_alone()
    # Ours: a router gives each request to the replica with the fewest.
    pooled: bool | None = ours_alone()
    # Ours: how many replicas are ready, and how old the newest sample behind the load was when this
    # was asked. They are shown to people, and decide nothing.
    ready_replicas: Whole | None = ours_alone()
    load_age_s: Figure | None = ours_alone()
    # Ours: it is no server that is there, but one that is asked about to compare. People are not
    # shown it.
    what_if: bool | None = ours_alone()
    current_alloc: AllocationData = Field(default_factory=AllocationData)
    desired_alloc: Annotated[AllocationData, Rule(echoed=True)] = Field(
        default_factory=AllocationData
    )


class ServerData(Message):
    """All servers."""

    servers: Annotated[list[ServerSpec], InFiles] = []


class OptimizerSpec(Message):
    """The flags of one optimisation. milp_solver and use_cplex are read and mean nothing."""

    unlimited: bool = False
    heterogeneous: bool = False
    milp_solver: bool = False
    use_cplex: bool = False
    delayed_best_effort: bool = False
    saturation_policy: Annotated[str, Rule(choices=SATURATION_POLICIES)] = ""


class OptimizerData(OptimizerSpec):
    """The flags: flat, or in their wrapper."""

    optimizer: OptimizerSpec | None = None
    wrapper: ClassVar[str] = "optimizer"

    @property
    def flags(self) -> OptimizerSpec:
        """Return the flags, in their wrapper or not."""
        return self.optimizer or self


class SystemSpec(Message):
    """A whole system."""

    accelerator_data: Annotated[AcceleratorData, InFiles] = Field(default_factory=AcceleratorData)
    model_data: Annotated[ModelData, InFiles] = Field(default_factory=ModelData)
    service_class_data: Annotated[ServiceClassData, InFiles] = Field(
        default_factory=ServiceClassData
    )
    server_data: ServerData = Field(default_factory=ServerData)
    optimizer_data: OptimizerData = Field(default_factory=OptimizerData)
    capacity_data: CapacityData = Field(default_factory=CapacityData)


class SystemData(SystemSpec):
    """A whole system: flat, or in its wrapper."""

    system: SystemSpec | None = None
    wrapper: ClassVar[str] = "system"

    @property
    def spec(self) -> SystemSpec:
        """Return the system, in its wrapper or not."""
        return self.system or self


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
    reason_kind: str
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
    unallocated_kinds: dict[str, str]
    total_cost: float
    total_value: float
    gap: float | None
    optimal: bool
    note: str = ""


class Problem(Message):
    """Why a request was refused, in one line."""

    message: str


class Refused(Problem):
    """Which servers took no change, and why; the others took theirs."""

    refused: dict[str, str]


def written(message: Message) -> dict[str, Any]:
    """Return *message* as the JSON object that a Go component reads."""
    return message.model_dump(mode="json", by_alias=True)
