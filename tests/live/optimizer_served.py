"""An optimizer served over real HTTP on a free port of the loopback, for tests; and answers
compared as JSON values.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
from fastapi import FastAPI

from loop.services.door import DoorSettings
from loop.services.serving import Service, listen

DEADLINE_S = 30.0  # far longer than anything takes, for a machine that does much else
TOLERANCE = 2e-4  # relative: what the golden data allow


def plain_client(url: str | httpx.URL, *, headers: Mapping[str, str] | None = None) -> httpx.Client:
    """Return a client of a service over plain HTTP: it reads no certificates, which would take
    longer than most tests.
    """
    return httpx.Client(
        base_url=url, headers=headers, timeout=DEADLINE_S, trust_env=False, verify=False
    )


@contextmanager
def serving(app: FastAPI, *, door: DoorSettings | None = None) -> Iterator[httpx.Client]:
    """Serve *app*; stop it at the end."""
    service = Service(app, on_stop=app.state.stop, door=door)
    sockets = listen("127.0.0.1", 0)
    port = sockets[0].getsockname()[1]
    thread = threading.Thread(target=service.run, kwargs={"sockets": sockets}, daemon=True)
    thread.start()
    with plain_client(f"http://127.0.0.1:{port}") as client:
        try:
            yield client
        finally:
            service.should_exit = True
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), "the service does not stop"


def eventually(happened: Callable[[], object], what: str) -> None:
    """Wait until *happened*, at most until the deadline."""
    end_s = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < end_s, f"waited {DEADLINE_S:g} s in vain: {what}"
        time.sleep(0.001)


def difference(found: Any, wanted: Any, *, place: str = "") -> str:
    """Return where two JSON values differ: figures within the tolerance are equal, and lists in any
    order.

    The existing service lists what it keeps in the random order of a Go map.
    """
    if isinstance(wanted, dict) and isinstance(found, dict):
        if found.keys() != wanted.keys():
            return f"{place}: keys {sorted(found)} instead of {sorted(wanted)}"
        differences = (
            difference(found[key], wanted[key], place=f"{place}.{key}") for key in wanted
        )
        return next(filter(None, differences), "")
    if isinstance(wanted, list) and isinstance(found, list):
        if len(found) != len(wanted):
            return f"{place}: {len(found)} instead of {len(wanted)}"
        pairs = zip(sorted(found, key=_order), sorted(wanted, key=_order), strict=True)
        return next(
            filter(
                None, (difference(a, b, place=f"{place}[{i}]") for i, (a, b) in enumerate(pairs))
            ),
            "",
        )
    if _is_figure(wanted) and _is_figure(found):
        close = abs(found - wanted) <= TOLERANCE * max(abs(found), abs(wanted))
        return "" if close else f"{place}: {found} instead of {wanted}"
    same = type(found) is type(wanted) and found == wanted
    return "" if same else f"{place}: {found!r} instead of {wanted!r}"


def _order(value: Any) -> str:
    """Return what tells the entries of a list apart: their names."""
    if isinstance(value, dict):
        return repr([value.get(key) for key in ("name", "acc", "model", "type")])
    return repr(value)


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
