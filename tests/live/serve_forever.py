"""A controller over a fake world as a program of its own: prints its port, and ends when it is told
to.
"""

from __future__ import annotations

import sys

from loop.clocks import MonotonicClock
from loop.controller import Controller, Pause
from loop.data import FixedData
from loop.drivers import LiveDriver, ThreadInbox
from loop.policies import make_policy
from loop.services.controller_app import create_controller_app
from loop.services.controller_metrics import ControllerMetrics
from loop.services.serving import end_well_on_signals, listen, serve
from loop.testing.fakes import FakeBackend, server_view, system


def main() -> int:
    """Serve until a signal comes."""
    end_well_on_signals()
    sockets = listen("localhost", 0)
    print(sockets[0].getsockname()[1], flush=True)  # noqa: T201 its parent reads it
    controller = Controller(
        backend=FakeBackend([server_view()]),
        policy=make_policy("static"),
        data=FixedData(system()),
        clock=MonotonicClock(),
    )
    inbox = ThreadInbox()
    driver = LiveDriver(controller, period_s=3600.0, clock=MonotonicClock(), inbox=inbox)
    app = create_controller_app(driver, inbox, metrics=ControllerMetrics(), pause=Pause())
    serve(app, sockets, on_stop=app.state.stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
