"""Takes the port before the model is loaded, so that a busy one is known at once and not after minutes."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from dataclasses import dataclass

from tgi.errors import ConfigError, ModelError

PORT_BUSY = 11  # exit code


@dataclass(slots=True)
class Reservation:
    """A bound socket that does not listen yet, and the lock that keeps a second server from doing the same."""

    sock: socket.socket
    lock: socket.socket | None

    @property
    def port(self) -> int:
        """The port, also when any free one was asked for."""
        port: int = self.sock.getsockname()[1]
        return port

    def close(self) -> None:
        """Give the port back."""
        self.sock.close()
        if self.lock is not None:
            self.lock.close()


def reserve(hostname: str, port: int) -> Reservation:
    """Bind the port. Raises: ConfigError for an unknown `hostname`, ModelError (exit 11) for a port that is taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            hostname, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(
            f"`--hostname {hostname}` cannot be resolved", hint="give an address, such as 0.0.0.0"
        ) from error
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(family, kind, protocol))
        # Connections of an earlier server may linger for a minute: without this they would keep the port.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
            lock = _lock(hostname, sock.getsockname()[1])
        except OSError as error:
            raise _refusal(hostname, port, error) from error
        undo.pop_all()
    return Reservation(sock, lock)


def _lock(hostname: str, port: int) -> socket.socket | None:
    """Two sockets that share an address may both be bound while neither listens; an abstract name may not."""
    if sys.platform != "linux":
        return None
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0tgi:{hostname}:{port}")
    except OSError:
        lock.close()
        raise
    return lock


def _refusal(hostname: str, port: int, error: OSError) -> Exception:
    if error.errno == errno.EADDRINUSE:
        return ModelError(
            f"port {port} is in use",
            hint="stop the other server, or use `--port` to take another port",
            exit_code=PORT_BUSY,
        )
    if error.errno == errno.EACCES:
        return ModelError(
            f"port {port} needs more rights", hint="use `--port` to take one above 1023", exit_code=PORT_BUSY
        )
    return ConfigError(f"cannot listen on {hostname}:{port}: {error.strerror}", hint="check `--hostname` and `--port`")
