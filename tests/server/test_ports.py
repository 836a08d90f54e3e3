"""A port is taken at once, or its being taken is known at once."""

from __future__ import annotations

import socket

import pytest

from tgi.errors import ConfigError, ModelError
from tgi.server.ports import reserve


def test_a_reserved_port_does_not_answer_yet() -> None:
    reservation = reserve("127.0.0.1", 0)
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", reservation.port)):
        pass
    reservation.close()


def test_a_port_that_another_start_reserved_is_busy() -> None:
    first = reserve("127.0.0.1", 0)
    with pytest.raises(ModelError) as refused:
        reserve("127.0.0.1", first.port)
    assert refused.value.exit_code == 11
    assert f"port {first.port} is in use" in refused.value.message
    assert "--port" in (refused.value.hint or "")
    port = first.port
    first.close()
    reserve("127.0.0.1", port).close()


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_another_program_serves_is_busy(address: str) -> None:
    with socket.create_server((address, 0)) as other, pytest.raises(ModelError, match="is in use"):
        reserve("127.0.0.1", other.getsockname()[1])


def test_names_are_resolved_or_refused() -> None:
    reservation = reserve("localhost", 0)
    assert reservation.sock.getsockname()[0] in ("127.0.0.1", "::1")
    reservation.close()
    with pytest.raises(ConfigError, match="`--hostname not a host` cannot be resolved"):
        reserve("not a host", 0)
