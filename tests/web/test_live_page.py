"""The live pages of a controller and of the twin, in a real browser, as an operator uses them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.routing import Route

from inferno.web.live import History, Stream, WithPage
from loop.services.serving import Service, listen
from tests.web.browser import opened, until
from tests.web.test_report import line as report_line
from tests.web.test_report import row as report_row

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
LOOP = "controller 30 false --backend sim --data sample-data/small --speed 30 --port 0"
TWIN = "twin serve --data sample-data/large --manifests yamls/workload --speed 20 --port 0"
TOKEN = "a-token-of-tests"


@contextmanager
def serving(command: str, log: Path, **environ: str) -> Iterator[str]:
    """Give the address of what `inferno` and *command* serve."""
    words = [sys.executable, "-m", "inferno", *command.split()]
    environ = {**os.environ, **environ}
    with (
        log.open("wb") as errors,
        subprocess.Popen(words, cwd=ROOT, stderr=errors, env=environ) as process,
    ):
        try:
            while not (found := re.search(r"http://[^/\"; ]+", log.read_text(encoding="utf-8"))):
                assert process.poll() is None, log.read_text(encoding="utf-8")
                time.sleep(0.05)
            yield found.group()
        finally:
            process.terminate()


def row(name: str = "a") -> Mapping[str, Any]:
    """Return a server of a record."""
    return {"name": name}


def line(t_s: float, servers: int = 1) -> Mapping[str, Any]:
    """Return a record."""
    return {"t_s": t_s, "servers": [row(str(number)) for number in range(servers)]}


def times(history: History, *, after: int = 0) -> list[float]:
    """Return the times of the records after that of a number."""
    number, lines = history.after(after)
    assert number == history.number
    return [one["t_s"] for one in lines]


def test_a_history_is_bounded_in_time_in_cycles_and_in_servers() -> None:
    """A controller runs for months, and its pod has 256 MiB."""
    history = History(keep_s=100.0, lines_max=5, rows_max=12)
    for t_s in (0.0, 90.0, 101.0):
        history.add(line(t_s))
    assert times(history) == [90.0, 101.0]
    for t_s in range(102, 110):
        history.add(line(float(t_s)))
    assert times(history) == [105.0, 106.0, 107.0, 108.0, 109.0]
    history.add(line(110.0, servers=10))
    assert times(history) == [108.0, 109.0, 110.0]
    history.add(line(111.0, servers=50))
    assert times(history, after=history.number - 1) == [111.0]
    assert times(history) == [111.0]


def told(page: Page, selector: str, text: str) -> None:
    """Wait until *selector* says *text*."""
    until(
        page,
        "([one, text]) => document.querySelector(one)?.textContent.includes(text)",
        [selector, text],
    )


def latest(page: Page) -> str:
    """Return the heading of what is now."""
    return page.inner_text("#latest .caption")


def goes_on(page: Page) -> None:
    """Wait until another cycle is shown."""
    until(
        page,
        "(before) => document.querySelector('#latest .caption').textContent !== before",
        latest(page),
    )


def fits(page: Page) -> None:
    """Check that what is shown can be read on a telephone."""
    page.set_viewport_size({"width": 360, "height": 800})
    goes_on(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    # The name leaves room for figures, and stays where these are moved along.
    first = "document.querySelector('#latest td').getBoundingClientRect()"
    assert page.evaluate(f"{first}.width") <= 110
    before = page.evaluate(f"{first}.left")
    page.focus("#latest .scrolled")
    page.keyboard.press("ArrowRight")
    until(page, "() => document.querySelector('#latest .scrolled').scrollLeft > 0")
    assert page.evaluate(f"{first}.left") == before
    # Five lines: reasons that name a cut batch and the next best choice take four.
    rows = "[...document.querySelectorAll('#latest tr')].map((one) => one.offsetHeight)"
    assert max(page.evaluate(rows)) <= 112


def take(page: Page, name: str, command: str) -> None:
    """Take the picture *name* of the documents."""
    page.screenshot(path=IMAGES / f"{name}.png")
    text = json.dumps({"command": command}, indent=1)
    (IMAGES / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


def test_a_controller_shows_each_cycle_and_is_asked_for_one(
    browser: Browser, tmp_path: Path
) -> None:
    """Who operates a loop wants to see it work, and to ask it something, from a keyboard too."""
    with (
        serving(LOOP, tmp_path / "log", INFERNO_SERVICE_TOKEN=TOKEN) as address,
        opened(browser, address, width=1200, height=1150) as (page, problems),
    ):
        # The page is for everybody; what the loop sees is for those who have the token.
        told(page, "#connection", "a token is needed")
        assert page.locator(".server").count() == 0
        page.focus("#token")
        page.keyboard.type("another")
        page.keyboard.press("Enter")
        told(page, "#connection", "not the right one")
        page.focus("#token")
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        told(page, "#connection", "Live")
        assert page.is_hidden("#access")
        page.wait_for_selector(".fleet .main-svg")
        page.wait_for_selector("#latest td")
        page.evaluate("window.samePage = true")
        goes_on(page)
        goes_on(page)
        page.focus("#advise")
        page.keyboard.press("Enter")
        told(page, "#answer", "would change")
        page.focus("#invoke")
        page.keyboard.press("Enter")
        told(page, "#answer", " changes ")
        assert page.evaluate("document.activeElement.id") == "invoke"
        assert page.is_hidden("#resume")
        page.focus("#pause")
        page.keyboard.press("Enter")
        told(page, "#state", "asks for nothing (POST /pause)")
        page.focus("#resume")
        page.keyboard.press("Enter")
        told(page, "#state", "It acts")
        assert page.is_hidden("#resume")
        assert page.evaluate("document.activeElement.id") == "pause"
        assert page.evaluate("window.samePage")
        stored = "localStorage.length + sessionStorage.length + document.cookie.length"
        assert page.evaluate(stored) == 0
        if os.environ.get("UPDATE_SNAPSHOTS"):
            page.wait_for_selector(".server .main-svg")
            take(page, "live-controller", f"inferno {LOOP}")
        # A browser tells of each 401 by itself.
        assert [one for one in problems if "401" not in one] == []
        fits(page)


@contextmanager
def streaming(history: History) -> Iterator[str]:
    """Give the address of a live page of *history*."""
    ended = Event()
    stream = Stream(history, title="many", closed=ended.is_set)
    app = Starlette(routes=[Route("/timeline", lambda _request: stream.response())])
    sockets = listen("127.0.0.1", 0)
    service = Service(WithPage(app, "controller.html"), on_stop=ended.set)
    thread = Thread(target=service.run, kwargs={"sockets": sockets})
    thread.start()
    try:
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    finally:
        service.should_exit = True
        thread.join()


def test_a_thousand_servers_are_followed(browser: Browser) -> None:
    """The page of a large fleet goes on, and its memory does not grow for as long as it is open."""
    names = [f"server-{number:04d}" for number in range(1000)]
    rows = [report_row(name, backlog=int(name.endswith("7"))) for name in names]
    history = History()
    for minute in range(1, 4):
        history.add(report_line(60.0 * minute, *rows))
    with streaming(history) as address, opened(browser, address) as (page, problems):
        told(page, "#latest .caption", "200 of 1,000 servers")
        assert page.inner_text("#latest td >> nth=0") == "server-0007"
        told(page, ".tools:not([role]) span", "24 of 1,000 shown")
        page.evaluate("window.samePage = true")
        for minute in range(4, 8):
            history.add(report_line(60.0 * minute, *rows))
            goes_on(page)
        assert page.evaluate("window.samePage")
        assert page.locator(".server").count() == 24
        assert page.evaluate("performance.memory.usedJSHeapSize") < 150 * 2**20
        assert problems == []


def test_the_twin_is_seen_and_moved_in_its_page(browser: Browser, tmp_path: Path) -> None:
    """Who tries a loop on the twin wants to raise a load, break a thing, and look what happens."""
    user = {"token": TOKEN, "user": "admin", "groups": ["system:masters"]}
    (tmp_path / "tokens.yaml").write_text(json.dumps({"tokens": [user]}))
    command = f"{TWIN} --kubeconfig {tmp_path / 'kubeconfig'} --tokens {tmp_path / 'tokens.yaml'}"
    with (
        serving(command, tmp_path / "log") as address,
        opened(browser, address, width=1200, height=1150) as (page, problems),
    ):
        page.wait_for_selector("#access")
        assert page.locator("#pods td").count() == 0
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        told(page, "#connection", "Live")
        told(page, "#latest", "vllm-001")
        told(page, "#pods .caption", " pods")
        told(page, "#nodes", "mi250-1")
        page.evaluate("window.samePage = true")
        page.select_option("#server", "infer/premium-llama-13b")
        assert page.input_value("#rpm") == "30"
        page.fill("#rpm", "240")
        page.focus("#rpm")
        page.keyboard.press("Enter")
        told(page, "#load-answer", "is sent 240 requests a minute")
        labels = (
            "(await live.askJson('apis/apps/v1/namespaces/infer/deployments/premium-llama-13b'))"
        )
        moved = page.evaluate(f"async () => {labels}.metadata.labels['inferno.server.load.rpm']")
        assert moved == "240"
        page.select_option("#kind", "lostNode")
        page.fill("#names", "mi250-1")
        page.fill("#seconds", "3600")  # at this speed two minutes are over before one looks
        page.focus("#inject")
        page.keyboard.press("Enter")
        told(page, "#faults", "lostNode")
        told(page, "#nodes", "NotReady")
        until(
            page,
            "() => [...document.querySelectorAll('#latest tr')].map((one) => [...one.children])"
            ".some(([name, rate]) => name.textContent === 'vllm-001' && rate.textContent > 90)",
        )
        if os.environ.get("UPDATE_SNAPSHOTS"):
            take(page, "live-twin", f"inferno {TWIN}")
        page.click("#end-faults")
        told(page, "#fault-answer", "No fault is in force")
        assert page.locator("#faults table").count() == 0
        assert page.evaluate("window.samePage")
        assert [one for one in problems if "403" not in one] == []
        fits(page)
