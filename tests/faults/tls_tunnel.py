"""A tunnel that speaks TLS for a client of gRPC, which has no switch for versions and ciphers."""

from __future__ import annotations

import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import grpc
from served_coordinator import NAME, outcome
from wrong_certificates import Pair, World

from fedmentor.wire.v1.federation_pb2_grpc import FederationStub


@contextmanager
def tunnel(
    world: World, pair: Pair, version: ssl.TLSVersion, ciphers: str = "ALL:@SECLEVEL=0"
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """An address that takes plain HTTP/2 and carries it to the coordinator in this version of TLS; and the server's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=world.authority.pem.decode())
    context.set_ciphers(ciphers)
    context.set_alpn_protocols(["h2"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    place = world.folder / "tunnel.pem"
    place.write_bytes(pair[0] + pair[1])
    context.load_cert_chain(place)
    host, _, port = world.served.address.rpartition(":")

    def connect() -> ssl.SSLSocket:
        return context.wrap_socket(socket.create_connection((host, int(port))), server_hostname="coordinator." + NAME)

    def seen() -> bytes:
        with connect() as secure:
            return secure.getpeercert(binary_form=True) or b""

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=carry, args=(listening, connect), daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}", seen
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def carry(listening: socket.socket, connect: Callable[[], ssl.SSLSocket]) -> None:
    """Take connections until the listening socket is shut."""
    with suppress(OSError):
        while True:
            plain, _ = listening.accept()
            with plain, suppress(OSError), connect() as secure:
                pump(plain, secure)


def pump(plain: socket.socket, secure: ssl.SSLSocket) -> None:
    """Copy both ways in one thread: an SSL socket must not be read and written at the same time."""
    plain.settimeout(0.005)
    secure.settimeout(0.005)
    while True:
        for source, target in ((plain, secure), (secure, plain)):
            try:
                data = source.recv(65536)
            except TimeoutError:
                continue
            if not data:
                return
            target.settimeout(5.0)
            target.sendall(data)
            target.settimeout(0.005)


def through(address: str, call: str) -> grpc.StatusCode:
    """Call through a tunnel."""
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        return outcome(FederationStub(channel), call)
