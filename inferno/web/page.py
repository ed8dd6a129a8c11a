"""One HTML page that needs nothing else: style, code and data are in it, and a policy that lets it
load nothing.
"""

from __future__ import annotations

import gzip
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files

from inferno.web.timeline import as_json

PLOTLY, STYLE = "plotly-cartesian.min.js", "page.css"
OURS = ("look.js", "draw.js")
# Plotly writes styles and SVG pictures of its own; no address is ever asked for anything.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)


def page(*, title: str, body: str, data: object, script: str, more: Sequence[str] = ()) -> str:
    """Return a page whose *script* draws *data*: what JSON makes of it is `data` there.

    *body* is HTML; all else is text. *more* names files of static/ that the script needs beside
    OURS. The data are packed: a thousand servers would be 10 MB.
    """
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        # Without it a browser asks its server for one.
        '<link rel="icon" href="data:,">',
        f"<style>{static(STYLE)}</style>",
        "</head>",
        "<body>",
        body,
        f'<script type="application/octet-stream" id="data">{packed(as_json(data))}</script>',
        f"<script>{static(PLOTLY)}</script>",
        *(f"<script>{static(name)}</script>" for name in (*OURS, *more)),
        '<script>"use strict";',
        f'inferno.parts.unpacked("data").then((data) => {{ {script} }});',
        "</script>",
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def packed(text: str) -> str:
    """Return *text* compressed, in letters that cannot end the element that they stand in."""
    content = text.encode(errors="backslashreplace")  # names of files that are no text
    return b64encode(gzip.compress(content, compresslevel=9, mtime=0)).decode()


@cache
def static(name: str) -> str:
    """Return a file of static/, as it was shipped."""
    return files("inferno.web").joinpath("static", name).read_text(encoding="utf-8")
