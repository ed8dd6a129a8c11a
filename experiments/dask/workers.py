"""Runs on the workers of a Dask cluster: each gets the files once and one run at a time, and what a
lost worker had is run again.
"""

from __future__ import annotations

import pickle
import threading
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic

import cloudpickle
import dask

from experiments.dask.on_worker import forget, make_row, receive, running_code
from experiments.dask.sent_files import SentFiles, files_of
from experiments.executor import Kind
from experiments.processes import Outcome, Outcomes
from experiments.sweep_rows import PlannedRun, Row
from loop.clocks import MonotonicClock
from loop.errors import LoopError
from loop.policies import code_digest, make_policy
from twin.spec import SpecError

LOOK_S = 1.0  # between two looks at which workers there are
LOSSES_MAX = 3  # a run that so many workers were lost with is what kills them

# Where a worker is, and its directory, by which one that was started anew there is another.
Worker = tuple[str, str]
Tell = Callable[[str], None]


class ClusterLostError(LoopError):
    """The scheduler is gone, or no worker came, in the midst of the work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaskWorkers:
    """The workers of the Dask scheduler at an address, those that come later too. *tell* gets a
    line about each that is refused or lost. The scheduler must answer within answer_timeout_s, and
    a worker must be there within workers_timeout_s.
    """

    scheduler: str
    tell: Tell
    answer_timeout_s: float = 10.0
    workers_timeout_s: float = 300.0

    def outcomes(self, work: Callable[[Kind], Row], runs: Sequence[Kind]) -> Outcomes[Row]:
        """Yield what became of each of *runs*. Raise SpecError if no scheduler answers or no worker
        runs this code, ClusterLostError if the cluster goes while runs are left.
        """
        if not runs:
            return
        files = files_of(planned.config for planned in runs)
        with _connected(self.scheduler, answer_timeout_s=self.answer_timeout_s) as client:
            dispatch = _Dispatch(client, self, work, runs, files=files)
            try:
                yield from dispatch.outcomes()
            except (OSError, TimeoutError) as error:
                raise ClusterLostError(
                    f"scheduler: {self.scheduler} is gone ({type(error).__name__}); finished runs "
                    "are kept: --resume goes on with the others"
                ) from None
            finally:
                dispatch.close()


@contextmanager
def _connected(address: str, *, answer_timeout_s: float) -> Iterator[Any]:
    # Before it is imported. What it logs of a cluster that goes away is said in one line here.
    quiet = {"distributed": "critical", "distributed.client": "critical"}
    dask.config.update_defaults({"logging": quiet})
    from distributed import Client

    def connect() -> None:
        try:
            made.put(
                Client(address, timeout=answer_timeout_s, set_as_default=False, name="inferno")
            )
        except Exception as error:
            made.put(error)

    # Beside this thread: where something else listens, which never ends what it says, the client
    # listens for ever.
    made: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=connect, daemon=True).start()
    try:
        client = made.get(timeout=answer_timeout_s + 1.0)
    except Empty:
        client = TimeoutError(f"nothing that it understands within {answer_timeout_s:g} s")
    if isinstance(client, Exception):
        raise SpecError(
            f"scheduler: expected a Dask scheduler that answers at {address[:60]}, found none: "
            f"{' '.join(str(client).split())[:100]}"
        )
    try:
        yield client
    finally:
        with suppress(OSError, TimeoutError):
            client.close(timeout=answer_timeout_s)


class _Dispatch(Generic[Kind]):
    """Hands runs to workers, to each one at a time.

    It says by name where each goes: so no run comes to a worker that is not known to run the same
    code, which the scheduler could not promise for workers that join later.
    """

    def __init__(
        self,
        client: Any,
        asked: DaskWorkers,
        work: Callable[[Kind], Row],
        runs: Sequence[Kind],
        *,
        files: SentFiles,
    ) -> None:
        self._client, self._asked, self._work, self._runs = client, asked, work, runs
        self._files = files
        self._session = f"{files.digest[:8]}-{uuid.uuid4().hex[:8]}"
        self._queue = deque(range(len(runs)))
        self._losses: Counter[int] = Counter()
        self._idle: deque[Worker] = deque()
        self._busy: dict[Worker, tuple[Any, int]] = {}
        self._refused: set[Worker] = set()
        self._ended: SimpleQueue[tuple[Worker, Any]] = SimpleQueue()
        self._clock = MonotonicClock()
        self._admitted = False  # whether any worker was
        self._alone_s: float | None = None  # since when there is none

    def outcomes(self) -> Outcomes[Row]:
        """Yield what became of each run."""
        look_s = 0.0
        while self._queue or self._busy:
            if self._clock.now_s() >= look_s:
                yield from self._look()
                look_s = self._clock.now_s() + LOOK_S
            while self._queue and self._idle:
                self._submit(self._idle.popleft(), self._queue.popleft())
            with suppress(Empty):
                yield from self._took(*self._ended.get(timeout=LOOK_S))

    def close(self) -> None:
        """Give up what is not done, and let the workers forget the files."""
        if self._client.status != "running":
            return
        with suppress(OSError, TimeoutError):
            self._client.cancel([future for future, _ in self._busy.values()])
            addresses = [address for address, _ in (*self._idle, *self._busy)]
            self._client.run(forget, self._session, workers=addresses, on_error="ignore")

    # -- which workers there are

    def _look(self) -> Iterator[Outcome[Row]]:
        if self._client.status != "running":
            raise ConnectionError
        # Asked of the scheduler itself: what the client keeps of it is at times without workers.
        workers = self._client.sync(self._client.scheduler.identity)["workers"]
        there = {(address, str(one["local_directory"])) for address, one in workers.items()}
        for worker in [worker for worker in self._busy if worker not in there]:
            yield from self._lost(worker)
        self._idle = deque(worker for worker in self._idle if worker in there)
        self._refused &= there
        if new := there.difference(self._idle, self._busy, self._refused):
            self._admit(sorted(new))
        self._require_workers()

    def _admit(self, new: Sequence[Worker]) -> None:
        """Give the files to those of *new* that run the same code, and refuse the others."""
        own, answers = running_code(), self._on(new, running_code)
        same = [worker for worker in new if answers.get(worker) == own]
        for worker in new:
            if worker not in same:
                self._refuse(worker, _difference(own, answers.get(worker)))
        kept = self._on(same, receive, self._session, self._files)
        for worker in same:
            if kept.get(worker) is None:
                self._idle.append(worker)
                self._admitted = True
            else:
                self._refuse(worker, f"it cannot keep the files: {_line(kept[worker])}")

    def _on(self, workers: Sequence[Worker], function: Any, *arguments: Any) -> dict[Worker, Any]:
        """Return what *function* returned on each of *workers*, or the exception that it raised."""
        addresses = [address for address, _ in workers]
        found = self._client.run(function, *arguments, workers=addresses, on_error="return")
        return {worker: found[worker[0]] for worker in workers if worker[0] in found}

    def _refuse(self, worker: Worker, why: str) -> None:
        self._refused.add(worker)
        self._asked.tell(f"worker {worker[0]} is refused: {why}")

    def _require_workers(self) -> None:
        now_s, where = self._clock.now_s(), self._asked.scheduler
        if self._idle or self._busy:
            self._alone_s = None
        elif self._refused and not self._admitted:
            raise SpecError(
                f"scheduler: expected workers that run this code at {where}, found "
                f"{len(self._refused)} that do not"
            )
        elif self._alone_s is None:
            self._alone_s = now_s
            self._asked.tell(f"{where} has no worker for the runs: waiting for one")
        elif now_s - self._alone_s > self._asked.workers_timeout_s:
            raise ClusterLostError(
                f"scheduler: expected workers at {where} within "
                f"{self._asked.workers_timeout_s:g} s, found none"
            )

    # -- the runs

    def _submit(self, worker: Worker, index: int) -> None:
        planned = self._runs[index]
        made = partial(
            make_row,
            self._work,
            planned,
            index=index,
            session=self._session,
            policy_code=_policy_code(planned),
        )
        future = self._client.submit(
            _calling(),
            cloudpickle.dumps(made),
            workers=[worker[0]],
            pure=False,
            key=f"inferno-{planned.run_id}-{uuid.uuid4().hex}",
        )
        self._busy[worker] = (future, index)
        future.add_done_callback(lambda ended: self._ended.put((worker, ended)))

    def _took(self, worker: Worker, future: Any) -> Iterator[Outcome[Row]]:
        """Take what came of a run, and its worker for another."""
        if self._busy.get(worker, (None, 0))[0] is not future:
            return  # it was given up before
        if future.status in ("cancelled", "lost"):
            yield from self._lost(worker)
            return
        _, index = self._busy.pop(worker)
        if future.status == "error":
            self._idle.append(worker)
            yield Outcome(index=index, error=_line(future.exception()))
            return
        outcome = future.result()
        if outcome is None:  # another process at that address: it is new at the next look
            self._queue.appendleft(index)
            return
        self._idle.append(worker)
        yield outcome

    def _lost(self, worker: Worker) -> Iterator[Outcome[Row]]:
        """Let another worker run what *worker* had, unless too many were lost with that run."""
        if self._client.status != "running":
            raise ConnectionError  # with its scheduler all are lost, and no worker is to blame
        future, index = self._busy.pop(worker)
        future.cancel()
        self._losses[index] += 1
        if self._losses[index] >= LOSSES_MAX:
            yield Outcome(
                index=index,
                error=f"{LOSSES_MAX} workers were lost while they made it (out of memory?)",
            )
            return
        self._asked.tell(f"worker {worker[0]} is gone: another one makes its run again")
        self._queue.appendleft(index)


def _calling() -> Callable[[bytes], Any]:
    """Return what calls a pickled function.

    The scheduler reads the tasks that it passes on. A function that is made here is sent by value,
    and what is in the bytes is opened on the worker: so the scheduler need know neither this
    package nor the policies of a user.
    """

    def call(pickled: bytes) -> Any:
        return pickle.loads(pickled)()  # noqa: S301 what its own client has sent

    return call


def _policy_code(planned: PlannedRun) -> str:
    """Return the digest that the code of the policy must have on a worker; "" of a class that is
    sent itself.
    """
    config = planned.config
    policy = make_policy(config.policy, **dict(config.policy_options))
    return (
        "" if type(policy).__module__ == "__main__" else code_digest(policy, *config.own_policies)
    )


def _difference(own: Mapping[str, str], found: Any) -> str:
    """Say in what a worker differs, from what it answered."""
    if not isinstance(found, Mapping):
        return f"it does not run inferno-twin {own['inferno-twin']}: {_line(found)}"
    told = [
        f"{name} {own[name]}, found {found.get(name, 'none')}"
        for name in own
        if found.get(name) != own[name]
    ]
    return f"expected {'; '.join(told)}"


def _line(error: BaseException | None) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200] if error else "no answer"
