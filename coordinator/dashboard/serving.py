"""Where metrics and dashboard are served: two addresses, or one for both."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from prometheus_client import CollectorRegistry

from coordinator.config import CoordinatorSettings
from coordinator.dashboard.pages import Route, Served
from coordinator.dashboard.routes import dashboard_routes, metrics_routes
from coordinator.dashboard.server import serving
from coordinator.events import Observer
from fedmentor.errors import ConfigError, PortInUse


@contextmanager
def served(
    settings: CoordinatorSettings, registry: CollectorRegistry, status: Callable[[], bytes], observe: Observer
) -> Iterator[str | None]:
    """Serve what the settings ask for while the block runs; gives the dashboard's address, None where there is none.

    The dashboard's address serves the metrics as well, so that one port is enough.

    Args:
        registry: of the metrics.
        status: gives ``status.json``.
        observe: is told what went wrong.

    Raises:
        PortInUse: another process has a port.
        ConfigError: a host is not an address or a name of this machine.
    """
    metrics, names = metrics_routes(registry), [name.lower() for name in settings.dashboard_names]
    dashboard = (settings.dashboard_host, settings.dashboard_port)
    with ExitStack() as stack:

        def listen(what: str, host: str, port: int, routes: Mapping[str, Route]) -> int:
            with _refused(what, host, port):
                return stack.enter_context(serving((host, port), Served(routes, {host.lower(), *names}, observe)))

        address = None
        if settings.dashboard_port is not None:
            routes = {**metrics, **dashboard_routes(status)}
            port = listen("dashboard", settings.dashboard_host, settings.dashboard_port, routes)
            address = f"http://{_in_url(settings.dashboard_host)}:{port}/"
        if settings.metrics_port is not None and (settings.metrics_host, settings.metrics_port) != dashboard:
            listen("metrics", settings.metrics_host, settings.metrics_port, metrics)
        yield address


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextmanager
def _refused(what: str, host: str, port: int) -> Iterator[None]:
    try:
        yield
    except UnicodeError as error:  # a label of more than 63 characters
        raise ConfigError(f"{what} cannot be served on {host[:80]!r}: no such name", cure=f"see --{what}-host") from error
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigError(f"{what} cannot be served on {host}: {error.strerror}", cure=f"see --{what}-host") from error
        raise PortInUse(f"port {port} for {what} is in use", cure=f"give another one with --{what}") from error
