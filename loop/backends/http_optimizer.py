"""An optimizer service, ours or an existing one, in the place of the optimizer of this process:
POST /optimizeOne answers what a policy asks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

from loop.errors import BackendError, SpecError
from loop.policies.slo import SloPolicy
from loop.schema.optimizer_messages import Era, optimize_message, read_optimized, server_row

if TYPE_CHECKING:
    from loop.backends.http_client import ServiceClient
    from loop.optimizer.rules import OptimizerSettings
    from loop.optimizer.solution import Solution
    from loop.spec import SystemData

OPTIONS = ("drain_s", "prefix_cache_trust", "compat", "era")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOptimizer:
    """Asks *service*, where it is set how to size and to choose. era: of when the service is.
    with_cost: tell what the present replicas cost; existing controllers do not.
    """

    service: ServiceClient
    era: Era = "today"
    with_cost: bool = True

    def __call__(self, data: SystemData, settings: OptimizerSettings) -> Solution:  # noqa: ARG002 the port
        """Return what the service answers for the servers of *data*. Raise BackendError, of phase
        decide, if it fails.
        """
        rows = [server_row(server, with_cost=self.with_cost) for server in data.servers.values()]
        message = optimize_message(data, rows, era=self.era)
        answer = self.service.post("optimizeOne", message, phase="decide")
        try:
            read = read_optimized(answer)
        except SpecError as problem:
            raise BackendError(f"optimizer: {problem}", phase="decide") from None
        # Nobody asked for other servers, and nothing is known of them.
        return replace(
            read,
            allocations={
                name: found for name, found in read.allocations.items() if name in data.servers
            },
            unserved={name: why for name, why in read.unserved.items() if name in data.servers},
        )


def remote_policy(service: ServiceClient, *, era: Era = "today", **options: Any) -> SloPolicy:
    """Return the SLO policy that asks *service* to optimize. Raise SpecError for an unknown option
    or a wrong value.
    """
    if era not in get_args(Era):
        raise SpecError(f"policy remote: era: expected {' or '.join(get_args(Era))}, found {era!r}")
    for option in options:
        if option not in OPTIONS:
            raise SpecError(
                f"policy remote: expected options: one of {', '.join(OPTIONS)}; found {option!r}"
            )
    with_cost = not options.get("compat", False)
    optimize = RemoteOptimizer(service=service, era=era, with_cost=with_cost)
    return SloPolicy(optimize=optimize, name="remote", **options)
