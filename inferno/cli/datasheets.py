"""Models and accelerators that commands take by name or by file: options, and what they mean."""

from __future__ import annotations

from argparse import Namespace, _ActionsContainer
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twin.fit.datasheet import Accelerator, DataSheetModel
    from twin.fit.model_config import ModelFacts

CONFIG_HELP = (
    "the model: its config.json as Hugging Face publishes it, or a name of sample-data/models"
)


def add_engine_options(parser: _ActionsContainer, *, required: bool) -> None:
    """Add what names a model on GPUs."""
    parser.add_argument("--config", required=required, metavar="FILE", help=CONFIG_HELP)
    parser.add_argument(
        "--accelerator",
        required=required,
        metavar="NAME",
        help="the GPU, a name of sample-data/datasheets/accelerators.json",
    )
    parser.add_argument(
        "--tp", type=int, default=1, metavar="N", help="GPUs of a replica (default 1)"
    )
    add_dtype_option(parser)


def add_dtype_option(parser: _ActionsContainer) -> None:
    """Add the precision of the weights."""
    parser.add_argument(
        "--dtype",
        choices=("bf16", "fp8"),
        help="precision of the weights (default: that of the config)",
    )


def add_batch_options(parser: _ActionsContainer) -> None:
    """Add what bounds an iteration of the engine."""
    parser.add_argument(
        "--max-batch",
        type=int,
        default=256,
        metavar="N",
        help="most requests in a batch (default 256)",
    )
    parser.add_argument(
        "--token-budget",
        type=int,
        default=8192,
        metavar="N",
        help="most tokens in an iteration (default 8192)",
    )


def engine_of(options: Namespace, *, max_batch: int, token_budget: int) -> DataSheetModel:
    """Return what the data sheet says of the engine that *options* name."""
    from twin.fit.datasheet import estimate, find_accelerator
    from twin.spec import SpecError

    if options.tp < 1:
        raise SpecError(f"tp: expected a whole number >= 1, found {options.tp}")
    return estimate(
        find_model(options.config),
        find_accelerator(accelerators(), options.accelerator),
        tp=options.tp,
        dtype=options.dtype,
        max_batch=max_batch,
        token_budget=token_budget,
    )


def accelerators() -> Mapping[str, Accelerator]:
    """Return the table of data sheets."""
    from experiments.config import SAMPLE_DATA
    from twin.fit.datasheet import read_accelerators

    return read_accelerators(SAMPLE_DATA / "datasheets" / "accelerators.json")


def find_model(given: str) -> ModelFacts:
    """Return the model of the file, the folder or the name *given*."""
    from experiments.config import SAMPLE_DATA, shipped
    from twin.datafile import did_you_mean
    from twin.fit.model_config import read_model
    from twin.spec import SpecError

    path = shipped(Path(given))
    if path.is_dir():
        path = path / "config.json"
    if path.is_file():
        return read_model(path)
    known = {file.stem: file for file in sorted((SAMPLE_DATA / "models").glob("*.json"))}
    if given.lower() in known:
        return read_model(known[given.lower()])
    if path.suffix == ".json":
        return read_model(path)  # says that there is no such file
    raise SpecError(
        f"config: expected a file, or one of {', '.join(known)}, found {given[:60]!r}"
        f"{did_you_mean(given, known)}"
    )
