"""Small systems for the tests of sizing, solvers and the optimizer: one accelerator type or two,
loads by name.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from loop.spec import (
    Allocation,
    OptimizerData,
    Perf,
    ServerData,
    ServiceClass,
    SloTarget,
    SystemData,
)
from loop.types import Load
from twin.spec import Accelerator

LATENCIES = {
    "H100": (6.5, 0.022, 5e-5),
    "A100": (11.0, 0.04, 9e-5),
    "2xA100": (6.9, 0.025, 6e-5),
    "L4": (40.0, 0.15, 3e-4),
}
COSTS = {"H100": 300.0, "A100": 180.0, "2xA100": 350.0, "L4": 55.0}


def small_system(
    *servers: ServerData,
    capacity: dict[str, int] | None = None,
    itl_ms: float = 20.0,
    ttft_ms: float = 800.0,
    tps: float = 0.0,
    kv_tokens: int | None = None,
    **flags: object,
) -> SystemData:
    """Return a system of four accelerators and one model, in classes Premium (1) and Free (5) with
    the same targets.
    """
    target = SloTarget(model="m", slo_itl_ms=itl_ms, slo_ttft_ms=ttft_ms, slo_tps=tps)
    slow = replace(target, slo_itl_ms=4.0 * itl_ms, slo_ttft_ms=4.0 * ttft_ms)
    return SystemData(
        accelerators={
            name: Accelerator(
                name=name,
                type=name.removeprefix("2x"),
                multiplicity=2 if name.startswith("2x") else 1,
                cost_cents_per_h=cost,
            )
            for name, cost in COSTS.items()
        },
        perf={
            ("m", name): Perf(
                model="m",
                accelerator=name,
                max_batch=64,
                at_tokens=256,
                alpha_ms=alpha,
                beta_ms=beta,
                gamma_ms=gamma,
                kv_tokens=kv_tokens,
            )
            for name, (alpha, beta, gamma) in LATENCIES.items()
        },
        classes={
            "Premium": ServiceClass(name="Premium", priority=1, targets={"m": target}),
            "Free": ServiceClass(name="Free", priority=5, targets={"m": slow}),
        },
        servers={server.name: server for server in servers},
        optimizer=OptimizerData(**flags),  # type: ignore[arg-type]
        capacity={"H100": 100, "A100": 100, "L4": 100} if capacity is None else capacity,
    )


def server(
    name: str = "s",
    *,
    rpm: float = 600.0,
    tokens: tuple[float, float] = (512.0, 256.0),
    now: tuple[str, int] = ("", 0),
    **fields: object,
) -> ServerData:
    """Return a server with a load; now: accelerator and replicas that it has."""
    load = Load(rate_rpm=rpm, in_tokens=tokens[0], out_tokens=tokens[1])
    current = Allocation(
        accelerator=now[0], replicas=now[1], max_batch=64 if now[0] else 0, load=load
    )
    given: dict[str, object] = {
        "name": name,
        "model": "m",
        "service_class": "Premium",
        "current": current,
    }
    return ServerData(**{**given, **fields})  # type: ignore[arg-type]


LOADS = st.builds(
    lambda rpm, in_tokens, out_tokens: (rpm, (in_tokens, out_tokens)),
    st.floats(1.0, 3000.0),
    st.floats(0.0, 3000.0),
    st.floats(1.0, 900.0),
)

CAPACITIES = st.fixed_dictionaries({kind: st.integers(0, 12) for kind in ("H100", "A100", "L4")})


@st.composite
def several_servers(draw: st.DrawFn, most: int = 4) -> list[ServerData]:
    """Return one to *most* servers of either class, with loads of some replicas and perhaps
    something in place.
    """
    found = []
    for i in range(draw(st.integers(1, most))):
        accelerator = draw(st.sampled_from(["", *LATENCIES]))
        found.append(
            server(
                f"s{i}",
                rpm=draw(st.sampled_from([0.0, 30.0, 400.0, 1500.0])) * draw(st.floats(0.5, 2.0)),
                now=(accelerator, draw(st.integers(1, 5)) if accelerator else 0),
                service_class=draw(st.sampled_from(["Premium", "Free"])),
                min_replicas=draw(st.integers(0, 1)),
            )
        )
    return found
