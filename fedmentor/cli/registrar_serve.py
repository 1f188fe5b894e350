"""``fedmentor federation serve``: the door is open until a signal asks for its end."""

from __future__ import annotations

import json
import signal
import sys
import threading

import click

from fedmentor.clock import SystemClock
from fedmentor.errors import EXIT_OK
from fedmentor.identity.door import Addresses, Failed, Refused, open_door
from fedmentor.identity.registrar import Registrar
from fedmentor.log import event_logger
from fedmentor.signals import ending_signals


def serve_until_signal(registrar: Registrar, listen: Addresses, *, as_json: bool) -> int:
    """Serve; one line on standard output once the ports are bound, events on standard error.

    Returns:
        The exit code: to be stopped is how this command ends.

    Raises:
        ConfigError, PortInUse: see fedmentor.identity.door.open_door.
    """
    stop = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in ending_signals()}
    try:
        registrar.publish()
        with open_door(registrar, listen, SystemClock(), event_logger(sys.stderr, (Refused, Failed))) as bound:
            if as_json:
                click.echo(json.dumps({"event": "listening", "enrolment": bound.enrolment, "renewals": bound.renewals}))
            else:
                places = {"enrolments": bound.enrolment, "renewals": bound.renewals}
                click.echo("listening: " + ", ".join(f"{what} on {at}" for what, at in places.items() if at is not None))
            sys.stdout.flush()
            stop.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return EXIT_OK
