"""Pages stand alone: all that they show is in them."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING

from inferno.web.page import PLOTLY, page, static
from inferno.web.timeline import Event, Timeline
from tests.web.browser import opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PLOTLY_SHA256 = "79542150855a52c567260e3137095dbe2b744e6d702a5cabe67da246942fba7a"


def test_the_drawing_library_is_the_published_one() -> None:
    """What is shipped minified can be compared with its source only by its hash."""
    assert hashlib.sha256(static(PLOTLY).encode()).hexdigest() == PLOTLY_SHA256
    assert static("README.md").count(static(PLOTLY).split(") v", 1)[1].split()[0]) == 2


def test_names_cannot_end_the_data_or_become_elements(browser: Browser, tmp_path: Path) -> None:
    """A server may be called anything; a page that it breaks, or that runs it, is an attack."""
    name = "</script><script>window.broken = true</script><img src=x onerror='window.broken=true'>"
    timeline = Timeline(
        title=name, origin="run", events=[Event(t_s=0.0, kind=name, text=name)], end_s=60.0
    )
    text = page(
        title=name,
        body='<div id="t"></div>',
        data=timeline,
        script='inferno.drawTimeline(document.getElementById("t"), data);',
    )
    (data,) = re.findall(r'<script type="application/octet-stream" id="data">(.*?)</script>', text)
    assert json.loads(gzip.decompress(b64decode(data)))["title"] == name
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    with opened(browser, (tmp_path / "page.html").as_uri()) as (shown, problems):
        shown.wait_for_selector(".main-svg")
        assert shown.evaluate("window.broken") is None
        assert shown.title() == name
        assert problems == []
