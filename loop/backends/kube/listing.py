"""Lists of several namespaces, side by side: one that cannot be listed keeps what it had, and stops
no other. What is made of the objects is in read.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from multiprocessing import TimeoutError as NotYet
from multiprocessing.pool import AsyncResult, ThreadPool
from typing import TYPE_CHECKING, Any

from loop.backends.kube.client import FORBIDDEN, NOT_FOUND, ApiError

if TYPE_CHECKING:
    from loop.backends.kube.read import Servers

Failed = Mapping[str, ApiError]  # what was said, by namespace
Lister = Callable[..., list[Any]]
Tries = dict[str, "AsyncResult[list[Any] | ApiError]"]

# A cycle waits so long for all namespaces that did not answer before: hanging again costs no more.
ASIDE_TIMEOUT_S = 0.5
# A namespace that has been refused for so long, with all that says so, is taken for deleted: with
# it went the role that let us see it.
FORGET_S = 3600.0
# Refusals further apart say nothing of the time between them: nobody asked.
UNBROKEN_S = FORGET_S / 4.0
REFUSED = (FORBIDDEN, NOT_FOUND)


class Listing:
    """One kind of objects in each of several namespaces, being asked for: *tries* are waited for,
    those *aside* for a moment only. failed: what is known to have failed without being asked.
    """

    def __init__(
        self, tries: Tries, *, aside: Tries | None = None, failed: Failed | None = None
    ) -> None:
        self._tries = tries
        self._aside = aside or {}
        self._failed = failed or {}

    def get(self) -> tuple[dict[str, list[Any]], Failed]:
        """Wait, and return the objects by namespace, and which namespaces could not be listed.
        Raise ApiError if none could be.
        """
        found: dict[str, list[Any]] = {}
        failed = dict(self._failed)
        answers = {space: answer.get() for space, answer in self._tries.items()}
        # All of them hang at the same time, and are waited for at the same time.
        until_s = time.monotonic() + ASIDE_TIMEOUT_S
        for space, answer in self._aside.items():
            try:
                answers[space] = answer.get(max(0.0, until_s - time.monotonic()))
            except NotYet:
                continue
        for space, told in answers.items():
            if isinstance(told, ApiError):
                failed[space] = told
            else:
                failed.pop(space, None)
                found[space] = told
        if failed and not found:
            raise next(iter(failed.values()))
        return found, failed


class LastListed:
    """The objects of one kind as they were listed last, by namespace.

    A namespace that the latest look could not list, while it could list others, is asked with a
    single try on the threads *aside*, for which no cycle waits long, until it has answered.
    """

    def __init__(self, aside: ThreadPool) -> None:
        self.failed: Failed = {}
        self._aside = aside
        self._last: dict[str, list[Any]] = {}
        self._tries: Tries = {}  # aside, that have not ended yet
        self._refused_s: dict[str, tuple[float, float]] = {}  # since when, and heard last
        self._gone: set[str] = set()

    def ask(self, pool: ThreadPool, lister: Lister, spaces: Sequence[str]) -> Listing:
        """Begin to list *spaces* on the threads of *pool*."""
        ended = [space for space, told in self._tries.items() if told.ready()]
        answers = {space: self._tries.pop(space).get() for space in ended}
        for space, told in answers.items():
            if isinstance(told, ApiError) and space in self.failed:
                self.failed = {**self.failed, space: told}
                if told.status not in REFUSED:
                    self._refused_s.pop(space, None)
        # What has answered meanwhile may have changed since, and is asked with the others.
        again = {space for space, told in answers.items() if not isinstance(told, ApiError)}
        tries: Tries = {}
        for space in spaces:
            once = space in self.failed
            attempt = partial(_attempt, lister, space, once=once)
            if not once or space in again:
                tries[space] = pool.apply_async(attempt)
            elif space not in self._tries:
                self._tries[space] = self._aside.apply_async(attempt)
        aside = {space: self._tries[space] for space in spaces if space not in tries}
        return Listing(tries, aside=aside, failed={space: self.failed[space] for space in aside})

    def look(
        self, pool: ThreadPool, lister: Lister, spaces: Sequence[str], *, failed: Failed
    ) -> Listing:
        """Begin to list what is looked at now and then, but in namespaces that have *failed*."""
        return Listing(
            {
                space: pool.apply_async(partial(_attempt, lister, space, once=False))
                for space in spaces
                if space not in failed
            },
            failed={space: failed[space] for space in spaces if space in failed},
        )

    def after(self, listing: Listing) -> tuple[list[Any], Failed]:
        """Return the objects of all namespaces of *listing*, of those that could not be listed now
        as they were before, and what was said there.
        """
        try:
            found, failed = listing.get()
        except ApiError:
            self._refused_s.clear()  # who knows what each would have said
            raise
        self.failed = failed
        # Its texts are those that are remembered as read: this keeps no others alive.
        last = {**self._last, **found}
        self._last = {space: of for space, of in last.items() if space in found or space in failed}
        self._refused_s = {space: s for space, s in self._refused_s.items() if space in failed}
        self._gone -= found.keys()
        return [one for part in self._last.values() for one in part], failed

    def refused_for_s(self, space: str, *, now_s: float) -> float:
        """Return for how long nothing but refusals has come from *space*, as of a namespace that
        is not there or that nobody lets us see.
        """
        error = self.failed.get(space)
        if error is None or error.status not in REFUSED:
            self._refused_s.pop(space, None)
            return 0.0
        since_s, heard_s = self._refused_s.get(space, (now_s, now_s))
        if now_s - heard_s > UNBROKEN_S:
            since_s = now_s
        self._refused_s[space] = since_s, now_s
        return now_s - since_s

    def may_be_gone(self, space: str) -> bool:
        """Tell whether *space* is not found, and is not known to be gone."""
        error = self.failed.get(space)
        return error is not None and error.status == NOT_FOUND and space not in self._gone

    def forget(self, space: str, *, gone: bool) -> bool:
        """Forget what was in *space*, which is *gone*, or has been refused for long. Tell whether
        there was something.
        """
        if gone:
            self._gone.add(space)
        return bool(self._last.pop(space, None))

    def unknown(self, spaces: Iterable[str]) -> list[str]:
        """Return those of *spaces* that have not been listed yet."""
        return [space for space in spaces if space not in self._last and space not in self._gone]


def unlisted_lines(servers: Servers) -> list[str]:
    """Return a line for each namespace that could not be listed."""
    known = {server.deployment.namespace for server in servers.by_name.values()}
    return [
        f"namespace {space}: it cannot be listed: {error}; "
        + (
            "its servers are held as seen before"
            if space in known
            else "none of its servers is known"
        )
        for space, error in servers.unlisted.items()
    ]


def _attempt(lister: Lister, space: str, *, once: bool) -> list[Any] | ApiError:
    try:
        return lister(space, once=True) if once else lister(space)
    except ApiError as error:
        return error
