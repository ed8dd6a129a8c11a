"""Servers behind TLS for tests, whose certificate is signed by itself and can be renewed."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


class TlsServer:
    """A server that answers each request with one text. ca is the file of who signed its
    certificate, which it did itself, and key that of its key.
    """

    def __init__(self, folder: Path, text: bytes) -> None:
        self._folder = folder
        self.ca, self.key = folder / "ca.crt", folder / "made.key"
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.renew()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.socket = self._context.wrap_socket(
            self.http.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://127.0.0.1:{self.http.server_address[1]}"

    def renew(self) -> None:
        """Have a new certificate, and write who signed it to the file of the CA."""
        made = self._folder / "made.crt"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]
        command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", self.key, "-out", made]
        command += ["-subj", "/CN=renewed", "-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run(command, check=True, capture_output=True)
        self._context.load_cert_chain(made, self.key)
        made.replace(self.ca)

    def ask_clients(self) -> None:
        """Answer nobody any more who does not show the present certificate as its own."""
        self._context.load_verify_locations(self.ca)
        self._context.verify_mode = ssl.CERT_REQUIRED


@contextmanager
def tls_server(folder: Path, text: bytes) -> Iterator[TlsServer]:
    """Run a server on the loopback; skip where there is no openssl to sign its certificates."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on PATH to make certificates with")
    server = TlsServer(folder, text)
    with serving(server.http):
        yield server


@contextmanager
def serving(http: ThreadingHTTPServer) -> Iterator[None]:
    """Have *http* answer from a thread of its own."""
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
