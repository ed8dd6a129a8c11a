"""Whether the compiled engine serves a run: where it is installed, and pays."""

from __future__ import annotations

from experiments.sources import Sources
from twin.engine.compiled.cache import installed, ready
from twin.spec import SpecError

# It spares some 9 µs of CPU a request. To load Numba and what was compiled before takes 0.6 s, to
# compile some 15 s: from so many requests on it is quicker.
LOADED_PAYS, COMPILED_PAYS = 100_000, 2_500_000


def chosen_fast(sources: Sources) -> bool:
    """Tell whether the compiled engine is to serve the run. Raise SpecError if it was asked for and
    is not installed.
    """
    engine = sources.config.engine
    if engine == "plain":
        return False
    if not installed():
        if engine == "fast":
            raise SpecError(
                "engine: fast needs the extra of that name: pip install 'inferno-twin[fast]'"
            )
        return False
    if engine == "fast":
        return True
    requests = _expected_requests(sources)
    return requests >= (LOADED_PAYS if requests < COMPILED_PAYS and ready() else COMPILED_PAYS)


def _expected_requests(sources: Sources) -> float:
    hours = sources.config.duration_s / 3600.0
    return sum(60.0 * hours * load.nominal.rate_rpm for load in sources.loads)
