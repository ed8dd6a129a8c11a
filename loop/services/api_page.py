"""The page on which people try the verbs of a service: Swagger UI out of an installed package, so
that a browser loads nothing from elsewhere.
"""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse, RedirectResponse, Response

if TYPE_CHECKING:
    from fastapi import FastAPI

PACKAGE = "fastapi_swagger"
ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
}
# Relative addresses: behind a proxy the service may stand below another path.
START = """\
SwaggerUIBundle({
  url: "openapi.json", dom_id: "#verbs", deepLinking: true, tryItOutEnabled: true,
  validatorUrl: null, defaultModelsExpandDepth: 0,
});
"""
PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="verbs"></div>
<noscript>The verbs are described in <a href="openapi.json">openapi.json</a>.</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script>{start}</script>
"""
# Only our own scripts run, whatever a text of the schema or of an answer may hold.
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; style-src 'self' "
    "'unsafe-inline'; script-src 'self' 'sha256-{digest}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def add_api_page(app: FastAPI) -> None:
    """Serve the page and what it needs below /docs, and lead to it whoever opens the service."""
    digest = b64encode(sha256(START.encode()).digest()).decode()
    headers = {"content-security-policy": POLICY.format(digest=digest)}
    page = PAGE.format(title=escape(app.title), start=START)

    @app.get("/", include_in_schema=False)
    def lead_to_page() -> Response:
        return RedirectResponse("docs")

    @app.get("/docs", include_in_schema=False)
    def show_page() -> Response:
        return HTMLResponse(page, headers=headers)

    @app.get("/docs/{name}", include_in_schema=False)
    def show_asset(name: str) -> Response:
        if name not in ASSETS:
            return Response(status_code=404)
        cached = {"cache-control": "private, max-age=86400"}
        return Response(_asset(name), media_type=ASSETS[name], headers=cached)


@cache
def _asset(name: str) -> bytes:
    # Found, not imported: of the package only its files are wanted.
    spec = find_spec(PACKAGE)
    assert spec is not None, f"{PACKAGE} is a dependency"
    assert spec.origin is not None, f"{PACKAGE} is a package"
    return (Path(spec.origin).parent / "resources" / name).read_bytes()
