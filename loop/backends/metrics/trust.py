"""Whom we trust to be a Prometheus, as whom we show ourselves to it, and the proxy before it."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx

from loop.backends.fetch import public_trust
from loop.errors import SpecError


def stamp_of(*files: Path | None) -> tuple[tuple[int, int] | None, ...]:
    """Return what changes with each of *files*, None for one that is not there."""
    found: list[tuple[int, int] | None] = []
    for path in files:
        try:
            told = None if path is None else path.stat()
        except OSError:
            told = None
        found.append(None if told is None else (told.st_mtime_ns, told.st_ino))
    return tuple(found)


def trust(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    """Return a context that trusts whom *ca* has signed (None: whom all trust), and shows *cert*
    with its *key* (None: in the same file), if there is one. Raise SpecError.
    """
    context = _trusting(ca)
    if cert is None and key is None:
        return context
    if cert is None:
        raise SpecError(f"{key}: expected the certificate of this key, too, found none")
    if ca is None:
        context = httpx.create_ssl_context(trust_env=False)  # what all share stays as it is
    try:
        # Of a key with a password nobody can be asked.
        context.load_cert_chain(cert, key, password="")
    except (OSError, ssl.SSLError) as error:
        files = cert if key is None else f"{cert}, {key}"
        raise SpecError(
            f"{files}: expected a certificate and its key without a password (PEM), found {error}"
        ) from error
    return context


def proxy_at(url: str) -> httpx.Proxy | None:
    """Return the proxy at *url*, None if there is to be none. Raise SpecError."""
    if not url:
        return None
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        # Not what was found: a password may be in it.
        raise SpecError("prometheus proxy: expected a URL such as http://proxy:3128")
    return httpx.Proxy(parsed)


def _trusting(ca: Path | None) -> ssl.SSLContext:
    if ca is None:
        return public_trust()
    try:
        return ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise SpecError(f"{ca}: expected CA certificates (PEM), found {error}") from error
