"""Time single iterations of a model on the GPU at hand, and fit the latency model to them.

    python -m benchmarks.gpu.iteration --config llama-3.1-8b --out iteration.csv

Decodes over batch and context, prefills over tokens, in bf16 and with random weights of the shape
that the config.json tells. The table has a row an iteration, and in each of them a, w, beta, gamma
and p; the last line is what perfParms of model-data.json takes.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config import SAMPLE_DATA
from twin.datafile import read_json
from twin.fit.datasheet import attention
from twin.fit.iterations import Iteration, fit_iterations, predicted_ms
from twin.fit.model_config import read_model
from twin.spec import LatencyModel, SpecError

if TYPE_CHECKING:
    import torch

    from benchmarks.gpu.decoder import Decoder

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (128, 512, 2048, 8192)
PROMPTS = (16, 64, 256, 512, 1024, 2048, 4096, 8192)
# Of each iteration: to warm up, and to take the median of.
WARM_UP, TIMES = 3, 15
# What is left for activations and for the workspace of libraries.
MEMORY_SHARE = 0.85
COLUMNS = ("gpu", "model", "kind", "batch", "context", "tokens", "measured_ms", "fitted_ms")
EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def main(arguments: Sequence[str]) -> int:
    """Measure, fit and write. Without a GPU, or without PyTorch, say so in one line."""
    options = _options(arguments)
    try:
        if not options.out.absolute().parent.is_dir():
            raise SpecError(f"{options.out}: expected to be in a folder that is there")
        config = _config(options.config)
        facts = read_model(config)
        torch = _torch()
        measured = list(_measured(torch, read_json(config), source=config.name))
        model = fit_iterations(measured, attention=attention(facts))
        name = torch.cuda.get_device_name()
        write(options.out, measured, model, gpu=name, model_name=facts.name)
    except SpecError as error:
        print(f"iteration: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (NoGpuError, OSError) as error:
        print(f"iteration: {error}", file=sys.stderr)
        return EXIT_FAILED
    print(f"wrote {len(measured)} iterations of {facts.name} on {name} to {options.out}")
    print(json.dumps(coefficients(model) | {"attention": model.attention}))
    return EXIT_OK


class NoGpuError(Exception):
    """There is nothing here to measure."""


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="iteration", description=__doc__)
    parser.add_argument(
        "--config", required=True, help="a config.json, or a name of sample-data/models"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("iteration.csv"), help="the table (default %(default)s)"
    )
    return parser.parse_args(arguments)


def _config(given: str) -> Path:
    known = SAMPLE_DATA / "models" / f"{given.lower()}.json"
    return known if known.is_file() else Path(given)


def _torch() -> Any:
    """Return PyTorch, if it has a GPU to run on."""
    try:
        import torch  # noqa: PLC0415, no part of the project
    except ImportError:
        raise NoGpuError(
            "expected PyTorch and a GPU, found no PyTorch: pip install torch"
        ) from None
    if not torch.cuda.is_available():
        raise NoGpuError("expected a GPU that PyTorch can use, found none")
    return torch


def _measured(torch: Any, config: Mapping[str, Any], *, source: str) -> Iterator[Iteration]:
    """Yield each iteration that fits into the memory, with its time."""
    from benchmarks.gpu.decoder import Decoder, shape_of  # noqa: PLC0415, it needs PyTorch

    shape = shape_of(config, source=source)
    device, dtype = torch.device("cuda"), torch.bfloat16
    free, _ = torch.cuda.mem_get_info()
    weights = 2.0 * parameters_of(shape)
    kv_tokens = int((MEMORY_SHARE * free - weights) / (2.0 * shape.kv_values))
    # One token longer each, for the one that is made.
    grid = [(batch, length) for batch in BATCHES for length in CONTEXTS]
    grid = [each for each in grid if each[0] * (each[1] + 1) <= kv_tokens]
    prompts = [tokens for tokens in PROMPTS if tokens <= kv_tokens]
    if not grid or not prompts:
        raise NoGpuError(f"{source}: expected room for its weights, found {free / 1e9:.3g} GB")
    most = max(*(batch * (length + 1) for batch, length in grid), *prompts)
    decoder = Decoder(shape, kv_tokens=most, device=device, dtype=dtype)
    yield from timed(torch, decoder, grid, prompts, device=device)


def parameters_of(shape: Any) -> int:
    """Return how many weights a decoder of *shape* has."""
    width, kv_width = shape.heads * shape.head, shape.kv_heads * shape.head
    layer = shape.hidden * (2 * width + 2 * kv_width + 3 * shape.intermediate)
    return int(shape.layers * layer + 2 * shape.vocabulary * shape.hidden)


def timed(
    torch: Any,
    decoder: Decoder,
    grid: Sequence[tuple[int, int]],
    prompts: Sequence[int],
    *,
    device: torch.device,
) -> Iterator[Iteration]:
    """Yield a decode of each batch and context of *grid*, and a prefill of each of *prompts*."""

    def drawn(count: int) -> torch.Tensor:
        return torch.randint(decoder.shape.vocabulary, (count,), device=device)

    for batch, context in grid:
        tokens = drawn(batch)
        time_ms = _time_ms(torch, lambda t=tokens, c=context: decoder.decode(t, c), device)
        yield Iteration(batch=batch, context=context, tokens=1, time_ms=time_ms)
    for count in prompts:
        tokens = drawn(count)
        time_ms = _time_ms(torch, lambda t=tokens: decoder.prefill(t), device)
        yield Iteration(batch=1, context=0, tokens=count, time_ms=time_ms)


def _time_ms(torch: Any, iteration: Callable[[], torch.Tensor], device: torch.device) -> float:
    """Return the median time of *iteration*, to the tokens being known to the host, as an engine
    waits for them. On a GPU it is launched as one graph, as engines do.
    """
    run = iteration
    for _ in range(WARM_UP):
        tokens = run()
    if device.type == "cuda":
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            tokens = iteration()

        def run() -> torch.Tensor:
            graph.replay()
            return tokens

    times_ms = []
    for _ in range(WARM_UP + TIMES):
        begin_s = time.perf_counter()
        run().tolist()  # waits for the GPU
        times_ms.append((time.perf_counter() - begin_s) * 1e3)
    return statistics.median(times_ms[WARM_UP:])


def coefficients(model: LatencyModel) -> dict[str, float]:
    """Return *model* under the names of model-data.json."""
    return {
        "alpha": model.alpha_ms,
        "a": model.launch_ms,
        "w": model.weights_ms,
        "beta": model.beta_ms,
        "gamma": model.gamma_ms,
        "p": model.p,
    }


def write(
    path: Path, measured: Sequence[Iteration], model: LatencyModel, *, gpu: str, model_name: str
) -> None:
    """Write the table: what was measured, what *model* says of it, and *model* itself."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*COLUMNS, *coefficients(model)])
        for each in measured:
            kind = "decode" if each.is_decode else "prefill"
            figures = (each.time_ms, predicted_ms(model, each), *coefficients(model).values())
            rows.writerow(
                [gpu, model_name, kind, each.batch, each.context, each.tokens]
                + [f"{figure:.6g}" for figure in figures]
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
