"""Frames over a socket pair: whole messages, end of file, and nothing that was not asked for."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from typing import Any

import msgspec
import pytest

from tests.fakes import make_request
from tgi import wire
from tgi.engine.messages import Abort, AddRequest, FromEngine, RequestFailed, Shutdown, ToEngine
from tgi.errors import EngineGone


def _blocking_pair() -> tuple[wire.Channel[Any, Any], wire.Channel[Any, Any]]:
    front, engine = socket.socketpair()
    return wire.Channel(front, FromEngine), wire.Channel(engine, ToEngine)


def test_messages_arrive_whole_and_in_order() -> None:
    front, engine = _blocking_pair()
    messages = [AddRequest(make_request(7, range(5))), Abort((1, 2)), Shutdown()]
    for message in messages:
        front.send(message)
    assert [engine.receive() for _ in messages] == messages
    front.close()
    engine.close()


def test_waiting_tells_bytes_and_end_of_file_from_silence() -> None:
    front, engine = _blocking_pair()
    assert not engine.waiting()
    front.send(Shutdown())
    assert engine.waiting()
    engine.receive()
    assert not engine.waiting()
    front.close()
    assert engine.waiting()
    with pytest.raises(EngineGone, match="closed its socket"):
        engine.receive()
    with pytest.raises(EngineGone):
        engine.send(RequestFailed((1,), "reason"))
    engine.close()


async def test_both_ends_exchange_messages_larger_than_any_buffer() -> None:
    front_socket, engine_socket = socket.socketpair()
    engine: wire.Channel[Any, Any] = wire.Channel(engine_socket, ToEngine)
    front: wire.AsyncChannel[Any, Any] = await wire.AsyncChannel.open(front_socket, FromEngine)
    request = make_request(1, range(1_000_000))

    def answer() -> None:
        assert engine.receive() == AddRequest(request)
        engine.send(RequestFailed((1,), "x" * 3_000_000))

    thread = threading.Thread(target=answer)
    thread.start()
    front.send(AddRequest(request))
    assert await front.receive() == RequestFailed((1,), "x" * 3_000_000)
    await asyncio.to_thread(thread.join)
    engine.close()
    with pytest.raises(EngineGone):
        await front.receive()
    front.close()
    front.send(Shutdown())  # into nothing, without an error: `receive()` has told


async def test_each_message_is_given_out_once_however_its_bytes_come() -> None:
    sender, receiver = socket.socketpair()
    messages: list[Any] = [Shutdown(), Abort((1, 2)), AddRequest(make_request(7, range(50))), Shutdown()]
    data = b"".join(wire.encode(msgspec.msgpack.Encoder(), message) for message in messages)
    channel: wire.AsyncChannel[Any, Any] = await wire.AsyncChannel.open(receiver, ToEngine)
    sender.sendall(data)
    taken: list[Any] = [await channel.receive()]
    listening = asyncio.create_task(channel.each(taken.append))
    for byte in data:
        sender.sendall(bytes([byte]))
        await asyncio.sleep(0)
    sender.close()
    with pytest.raises(EngineGone, match="closed its socket"):
        await listening
    assert taken == messages * 2
    channel.close()


async def test_who_takes_messages_is_told_of_his_own_failure() -> None:
    sender, receiver = socket.socketpair()
    channel: wire.AsyncChannel[Any, Any] = await wire.AsyncChannel.open(receiver, ToEngine)
    sender.sendall(wire.encode(msgspec.msgpack.Encoder(), Abort((1,))) * 2)
    taken: list[Any] = []

    def take(message: Any) -> None:
        taken.append(message)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await channel.each(take)
    assert taken == [Abort((1,))]
    channel.close()
    sender.close()


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (struct.pack("<I", 1 << 31), "frame of 2147483648 bytes"),
        (struct.pack("<I", 3) + b"\xc1\xc1\xc1", "malformed"),
        (wire.encode(msgspec.msgpack.Encoder(), {"type": "unknown"}), "malformed"),
        (wire.encode(msgspec.msgpack.Encoder(), RequestFailed((1,), "")), "malformed"),  # the other direction's
        (struct.pack("<I", 9) + b"\x81", "closed its socket"),
    ],
    ids=["oversized", "not msgpack", "unknown tag", "wrong direction", "cut short"],
)
async def test_what_is_no_message_ends_the_conversation(frame: bytes, reason: str) -> None:
    sender, receiver = socket.socketpair()
    with sender:
        sender.sendall(frame)
    async_channel: wire.AsyncChannel[Any, Any] = await wire.AsyncChannel.open(receiver.dup(), ToEngine)
    with pytest.raises(EngineGone, match=reason):
        await async_channel.receive()
    async_channel.close()
    receiver.close()

    sender, receiver = socket.socketpair()
    with sender:
        sender.sendall(frame)
    channel: wire.Channel[Any, Any] = wire.Channel(receiver, ToEngine)
    with pytest.raises(EngineGone, match=reason):
        channel.receive()
    channel.close()


def test_a_message_too_large_for_a_frame_is_refused_before_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 100)
    with pytest.raises(ValueError, match="larger than a frame"):
        wire.encode(msgspec.msgpack.Encoder(), AddRequest(make_request(1, range(100))))
