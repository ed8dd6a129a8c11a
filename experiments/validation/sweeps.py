"""The sweeps of GuideLLM over eight shapes of requests: how four shapes predict the four others;
for experiments.validation.validate.

The latency model is searched for by what the twin makes of each step. Its TTFT jumps by a per cent
wherever a coefficient moves, as arrivals fall into other iterations, so slopes are taken over wide
steps: those over narrow ones ended a search where it happened to begin.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares, minimize_scalar

from experiments.config import SAMPLE_DATA
from twin.fit.datasheet import SEQUENCE_MS, DataSheetModel, estimate, read_accelerators
from twin.fit.fitting import LAUNCH_SHARE
from twin.fit.model_config import read_model
from twin.fit.points import OperatingPoint, Steady, operate
from twin.fit.search import OVERHEAD_MAX_S, prior_of
from twin.spec import SCHEDULINGS, LatencyModel, Scheduling

Floats = npt.NDArray[np.float64]

SWEEPS = SAMPLE_DATA / "validation" / "guidellm.csv"
POINT_REQUESTS = 300  # of a simulated step; a run of fewer is simulated whole
ALONE_REQUESTS = 64  # of one user alone
DURATIONS_S = {"guidellm_exp1_llama31_8b": 360.0, "guidellm_exp2": 600.0}  # of a step
SHAPES_A = ("1024x1024", "256x256", "4096x256", "64x1024")
SHAPES_B = ("1024x64", "256x4096", "4096x4096", "64x64")
SPLITS = {"A → B": (SHAPES_A, SHAPES_B), "B → A": (SHAPES_B, SHAPES_A)}

# One standard deviation of the logarithm of what one step says.
ITL_SPREAD, TTFT_SPREAD = 0.05, 0.1
# What is searched for: the logarithms of what multiplies alpha, beta and gamma of the data sheet,
# 1 / p, and with synchronous scheduling what the host does for each request [ms]; where the search
# begins, its bounds, and how far apart two points are that a slope is taken of.
START = (0.0, 0.0, 0.0, 1.0 / 1.5, SEQUENCE_MS)
LOWEST, HIGHEST = (-2.0, -2.0, -2.0, 0.25, 0.0), (2.0, 2.0, 2.0, 1.0, 0.1)
WIDE = (0.05, 0.15, 0.15, 0.1, 0.01)
# One standard deviation of the last two, of what is thought at the start.
INVERSE_P_SPREAD, SEQUENCE_SPREAD_MS = 0.2, 0.01
# Of the first search, and of one from its end.
ROUNDS, ROUNDS_AGAIN = 12, 5
ENOUGH = 1e-3  # a share of the loss, of which a further round is not worth its time


def guidellm(dataset: str, model: str) -> PointFit:
    """Print how four shapes of a sweep predict the four others; return what all of it says."""
    for split in SPLITS:
        found = split_fit(dataset, model, split)
        predicted = predictions(dataset, split, found)
        itl_mape = np.mean([abs(each.itl_error) for each in predicted])
        ttft_mape = np.mean([abs(each.ttft_error) for each in predicted])
        print(
            f"{dataset}: shapes {split}: {len(predicted)} steps, ITL MAPE {itl_mape:.1%}, TTFT "
            f"MAPE {ttft_mape:.1%} (p {found.latency_model.p:.2f}, {found.scheduling} scheduling)"
        )
    return fit_points(steps(dataset), data_sheet(model))


def split_fit(dataset: str, model: str, split: str) -> PointFit:
    """Return what the first shapes of *split* say of the engine of *dataset*."""
    fitted, _ = SPLITS[split]
    return fit_points([each for each in steps(dataset) if each[0] in fitted], data_sheet(model))


def predictions(dataset: str, split: str, found: PointFit) -> list[Predicted]:
    """Return the steps of the other shapes of *split*, measured and predicted by *found*."""
    _, others = SPLITS[split]
    return [
        Predicted(
            shape=shape,
            # 0 is one user alone.
            rate_rps=point.rate_rps or 0.0,
            ttft_ms=ttft_ms,
            itl_ms=itl_ms,
            ttft_predicted_ms=steady.ttft_median_s * 1e3,
            itl_predicted_ms=steady.itl_s * 1e3,
        )
        for shape, point, ttft_ms, itl_ms in steps(dataset)
        if shape in others
        for steady in [operating(point, found)]
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """A step of a sweep: median TTFT and mean ITL."""

    shape: str
    rate_rps: float
    ttft_ms: float
    itl_ms: float
    ttft_predicted_ms: float
    itl_predicted_ms: float

    @property
    def ttft_error(self) -> float:
        """Return the relative error, positive if it is predicted too slow."""
        return self.ttft_predicted_ms / self.ttft_ms - 1.0

    @property
    def itl_error(self) -> float:
        """Return the relative error, positive if it is predicted too slow."""
        return self.itl_predicted_ms / self.itl_ms - 1.0


def data_sheet(model: str) -> DataSheetModel:
    """Return what the data sheet says of *model* on the H100 of the sweeps."""
    return estimate(
        read_model(SAMPLE_DATA / "models" / f"{model}.json"),
        read_accelerators(SAMPLE_DATA / "datasheets" / "accelerators.json")["H100"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PointFit:
    """What a sweep says of an engine; loss is that of the fit."""

    latency_model: LatencyModel
    overhead_ms: float
    scheduling: Scheduling
    loss: float


Measured = tuple[str, OperatingPoint, float, float]


def steps(dataset: str) -> list[Measured]:
    """Return shape, load, median TTFT and mean ITL [ms] of the steps 0 to 6, without the one of
    full throughput.
    """
    found = []
    with SWEEPS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if not row["dataset"].startswith(dataset) or row["strategy"] == "throughput":
                continue
            alone = row["strategy"] == "synchronous"
            point = OperatingPoint(
                users=1 if alone else None,
                rate_rps=None if alone else float(row["offered_rps"]),
                input_tokens=float(row["in_tok_mean"]),
                output_tokens=float(row["out_tok_mean"]),
                spread=0.5,
                is_even=True,
                duration_s=DURATIONS_S[dataset],
            )
            shape = f"{row['nom_in_tok']}x{row['nom_out_tok']}"
            found.append((shape, point, float(row["ttft_ms_median"]), float(row["itl_ms_mean"])))
    return found


def operating(point: OperatingPoint, found: PointFit) -> Steady:
    """Return what the twin says of a step."""
    return operate(
        point,
        latency_model=found.latency_model,
        max_batch=512,
        token_budget=8192,
        overhead_ms=found.overhead_ms,
        scheduling=found.scheduling,
        requests=ALONE_REQUESTS if point.users else POINT_REQUESTS,
    )


def fit_points(
    measured: Sequence[Measured], prior: DataSheetModel, *, start: Sequence[float] = START
) -> PointFit:
    """Fit with synchronous scheduling, from there with asynchronous; return what misses less."""
    begin, rounds = np.array(start), ROUNDS
    found = []
    for scheduling in SCHEDULINGS:
        fit = Fit(measured, prior, scheduling)
        # Asynchronous scheduling leaves nothing of the host to be seen.
        begin, loss = fit.best(begin[: 5 if scheduling == "sync" else 4], rounds=rounds)
        found.append(fit.model(begin, loss=loss))
        rounds = ROUNDS_AGAIN
    return min(found, key=lambda each: each.loss)


class Fit:
    """The search for the latency model of *measured* with one way of scheduling."""

    def __init__(
        self, measured: Sequence[Measured], prior: DataSheetModel, scheduling: Scheduling
    ) -> None:
        self._points = [point for _, point, _, _ in measured]
        self._ttft_ms = np.array([ttft_ms for _, _, ttft_ms, _ in measured])
        self._itl_ms = np.array([itl_ms for _, _, _, itl_ms in measured])
        self._sheet = prior.latency_model
        self._prior = prior_of(prior.latency_model)
        self._scheduling: Scheduling = scheduling
        self._last = (np.zeros(0), np.zeros(0))  # values and their residuals

    def best(self, start: Floats, *, rounds: int) -> tuple[Floats, float]:
        """Return what is found from *start* on, and its loss."""
        found = least_squares(
            self._residuals,
            start,
            jac=self._slopes,
            bounds=(LOWEST[: len(start)], HIGHEST[: len(start)]),
            loss="soft_l1",
            ftol=ENOUGH,
            max_nfev=rounds,
        )
        return found.x, float(found.cost)

    def model(self, values: Floats, *, loss: float = 0.0) -> PointFit:
        """Return what *values* say, with the overhead that goes with them."""
        found = self._engine(values, loss=loss)
        return replace(found, overhead_ms=self._overhead_ms(self._steady(found)[0]))

    def _engine(self, values: Floats, *, loss: float = 0.0) -> PointFit:
        alpha, beta, gamma = (float(value) for value in np.exp(values[:3]))
        alpha_ms = self._sheet.alpha_ms * alpha
        return PointFit(
            latency_model=LatencyModel(
                alpha_ms=alpha_ms,
                beta_ms=self._sheet.beta_ms * beta,
                gamma_ms=self._sheet.gamma_ms * gamma,
                launch_ms=alpha_ms * LAUNCH_SHARE,
                attention=self._sheet.attention,
                p=1.0 / float(values[3]),
                sequence_ms=float(sum(values[4:])),
            ),
            overhead_ms=0.0,
            scheduling=self._scheduling,
            loss=loss,
        )

    def _steady(self, found: PointFit) -> tuple[Floats, Floats]:
        """Return the median TTFT and the mean ITL [ms] of each step."""
        steady = [operating(point, found) for point in self._points]
        return (
            np.array([each.ttft_median_s * 1e3 for each in steady]),
            np.array([each.itl_s * 1e3 for each in steady]),
        )

    def _overhead_ms(self, ttft_ms: Floats) -> float:
        """Return the constant that brings *ttft_ms*, without it, nearest to what was measured: it
        changes nothing in the engine, so it needs no search.
        """

        def loss(overhead_ms: float) -> float:
            apart = np.log((ttft_ms + overhead_ms) / self._ttft_ms) / TTFT_SPREAD
            return float(np.sqrt(1.0 + apart**2).sum())

        bounds = (0.0, OVERHEAD_MAX_S * 1e3)
        return float(minimize_scalar(loss, bounds=bounds, method="bounded").x)

    def _residuals(self, values: Floats) -> Floats:
        ttft_ms, itl_ms = self._steady(self._engine(values))
        ttft_ms += self._overhead_ms(ttft_ms)
        residuals = np.concatenate(
            [
                np.log(ttft_ms / self._ttft_ms) / TTFT_SPREAD,
                np.log(itl_ms / self._itl_ms) / ITL_SPREAD,
                self._prior.apart(values[:3]),
                [(values[3] - START[3]) / INVERSE_P_SPREAD],
                (values[4:] - SEQUENCE_MS) / SEQUENCE_SPREAD_MS,
            ]
        )
        self._last = values.copy(), residuals
        return residuals

    def _slopes(self, values: Floats) -> Floats:
        values_last, here = self._last
        if not np.array_equal(values_last, values):
            here = self._residuals(values)
        slopes = []
        for place, wide in enumerate(WIDE[: len(values)]):
            # Away from a bound that is near.
            move = wide if values[place] + wide <= HIGHEST[place] else -wide
            there = values.copy()
            there[place] += move
            slopes.append((self._residuals(there) - here) / move)
        return np.array(slopes).T
