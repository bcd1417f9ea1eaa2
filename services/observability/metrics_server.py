"""The HTTP server that Prometheus reads a process's metrics from."""

import socket
from socketserver import ThreadingMixIn
from threading import Lock, Thread
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

MAX_CONNECTIONS: Final = 16
"""Of the metrics' server; the oldest gives way to the next."""

_SECONDS: Final = 10.0


class _Handler(WSGIRequestHandler):
    """Reads one request, says nothing to the log, and waits for no byte longer than this."""

    timeout = _SECONDS

    def log_message(self, format: str, *values: object) -> None:  # noqa: A002 - the library's name
        """Says nothing."""


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection, of which there are so many at most.

    A scraper is served within milliseconds: what has been open for longest is no scraper's.
    """

    daemon_threads = True
    # Of connections that nobody has accepted yet: with few, a scraper's waits for seconds.
    request_queue_size = 128

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - the library's
        self._lock = Lock()
        self._open: list[socket.socket] = []
        super().__init__(*arguments, **options)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as above
        """Lets go of the oldest connection if there is no room for another."""
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                _end(self._open.pop(0))
            self._open.append(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - as above
        """Makes room."""
        with self._lock:
            if request in self._open:
                self._open.remove(request)
        super().shutdown_request(request)


class MetricsServer:
    """Serves until it is closed.

    Args:
        host: where to listen.
        port: 0 for any that is free.
        registry: what is served.

    Raises:
        OSError: the address is taken, or none.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        server = type("_FamilyServer", (_Server,), {"address_family": family})
        self._server: WSGIServer = make_server(
            host, port, make_wsgi_app(registry), server, _Handler
        )
        self.port: int = self._server.server_port
        Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Ends."""
        self._server.shutdown()
        self._server.server_close()


def _end(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        # It is ending by itself.
        return
