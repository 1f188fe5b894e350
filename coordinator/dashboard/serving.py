"""Where metrics and dashboard are served: two addresses, or one for both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from prometheus_client import CollectorRegistry

from coordinator.config import CoordinatorSettings
from coordinator.dashboard.routes import dashboard_routes, metrics_routes
from coordinator.events import CallFailed, Observer
from fedmentor.pages.server import serving
from fedmentor.pages.values import Route, Served


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

    def failed(private: str) -> None:
        observe(CallFailed("page", None, private))

    with ExitStack() as stack:

        def listen(what: str, host: str, port: int, routes: Mapping[str, Route]) -> str:
            return stack.enter_context(serving((host, port), Served(what, routes, failed, names={host.lower(), *names})))

        address = None
        if settings.dashboard_port is not None:
            routes = {**metrics, **dashboard_routes(status)}
            address = listen("dashboard", settings.dashboard_host, settings.dashboard_port, routes)
        if settings.metrics_port is not None and (settings.metrics_host, settings.metrics_port) != dashboard:
            listen("metrics", settings.metrics_host, settings.metrics_port, metrics)
        yield address
