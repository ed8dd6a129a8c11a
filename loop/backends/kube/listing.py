"""Lists of several namespaces, side by side: one that cannot be listed keeps what it had, and stops
no other. What is made of the objects is in read.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from loop.backends.kube.client import ApiError

if TYPE_CHECKING:
    from multiprocessing.pool import ThreadPool

    from loop.backends.kube.read import Servers

Failed = Mapping[str, ApiError]  # what was said, by namespace


class Listing:
    """One kind of objects in each of *spaces*, being asked for on the threads of *pool*; in those
    of *once* with a single try.
    """

    def __init__(
        self,
        pool: ThreadPool,
        listing: Callable[..., list[Any]],
        spaces: Sequence[str],
        *,
        once: Collection[str] = (),
    ) -> None:
        self.spaces = spaces
        self._answers = pool.map_async(partial(_attempt, listing, once), spaces, chunksize=1)

    def get(self) -> tuple[dict[str, list[Any]], Failed]:
        """Wait, and return the objects by namespace, and which namespaces could not be listed.
        Raise ApiError if none could be.
        """
        found: dict[str, list[Any]] = {}
        failed: dict[str, ApiError] = {}
        for space, answer in zip(self.spaces, self._answers.get(), strict=True):
            if isinstance(answer, ApiError):
                failed[space] = answer
            else:
                found[space] = answer
        if failed and not found:
            raise next(iter(failed.values()))
        return found, failed


class LastListed:
    """The objects of one kind as they were listed last, by namespace. failing: the namespaces that
    the latest look could not list, while it could list others; one that hangs is to cost the next
    cycles no more than one try.
    """

    def __init__(self) -> None:
        self.failing: frozenset[str] = frozenset()
        self._last: dict[str, list[Any]] = {}

    def after(self, listing: Listing) -> tuple[list[Any], Failed]:
        """Return the objects of all namespaces of *listing*, of those that could not be listed now
        as they were before, and what was said there.
        """
        found, failed = listing.get()
        self.failing = frozenset(failed)
        # Its texts are those that are remembered as read: this keeps no others alive.
        last = {**self._last, **found}
        self._last = {space: last[space] for space in listing.spaces if space in last}
        return [one for part in self._last.values() for one in part], failed

    def unknown(self, spaces: Iterable[str]) -> list[str]:
        """Return those of *spaces* that have not been listed yet."""
        return [space for space in spaces if space not in self._last]


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


def _attempt(
    listing: Callable[..., list[Any]], once: Collection[str], space: str
) -> list[Any] | ApiError:
    try:
        return listing(space, once=True) if space in once else listing(space)
    except ApiError as error:
        return error
