"""Frames over a socket: a 4-byte little-endian length and one msgspec message in MessagePack.

The two ends of a `socket.socketpair()` hold a `Channel` (blocking; the engine) and an `AsyncChannel` (asyncio; the
front end). End of file means that the other process is gone. Nothing on a channel is ever unpickled.
"""

from __future__ import annotations

import select
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast

import msgspec

from tgi.errors import EngineGone

if TYPE_CHECKING:
    import asyncio

Send = TypeVar("Send")
Receive = TypeVar("Receive")

_LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 1 << 28  # a frame is columns of one step or one prompt; more than 256 MiB is a bug or an attack


def encode(encoder: msgspec.msgpack.Encoder, message: object) -> bytes:
    """One message as the bytes of its frame.

    Raises: ValueError if the message is larger than `MAX_FRAME_BYTES`.
    """
    body = encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"message of {len(body)} bytes is larger than a frame may be ({MAX_FRAME_BYTES})")
    return _LENGTH.pack(len(body)) + body


def _checked_length(header: bytes) -> int:
    length: int = _LENGTH.unpack(header)[0]
    if length > MAX_FRAME_BYTES:
        raise EngineGone(f"the other process sent a frame of {length} bytes; at most {MAX_FRAME_BYTES} are allowed")
    return length


class Channel(Generic[Send, Receive]):
    """The blocking end, used by the engine process.

    `receive_type` is a msgspec type or a union of tagged Structs: anything else on the wire is refused.
    """

    def __init__(self, sock: socket.socket, receive_type: Any) -> None:
        sock.setblocking(True)
        self._socket = sock
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Receive] = msgspec.msgpack.Decoder(receive_type)

    def send(self, message: Send) -> None:
        """Write one message whole. Raises: EngineGone if the other end is closed."""
        try:
            self._socket.sendall(encode(self._encoder, message))
        except OSError as error:
            raise EngineGone(f"the other process is gone: {error}") from error

    def receive(self) -> Receive:
        """Wait for one message. Raises: EngineGone at end of file or on a malformed frame."""
        length = _checked_length(self._read(_LENGTH.size))
        try:
            return self._decoder.decode(self._read(length))
        except msgspec.MsgspecError as error:
            raise EngineGone(f"the other process sent a malformed message: {error}") from error

    def waiting(self, timeout_s: float = 0.0) -> bool:
        """Whether `receive()` would find bytes (or end of file), waiting `timeout_s` for them."""
        return bool(select.select([self._socket], [], [], timeout_s)[0])

    def close(self) -> None:
        """Close the socket; the other end sees end of file."""
        self._socket.close()

    def _read(self, count: int) -> bytes:
        buffer = bytearray(count)
        view = memoryview(buffer)
        while view:
            try:
                read = self._socket.recv_into(view)
            except OSError as error:
                raise EngineGone(f"the other process is gone: {error}") from error
            if read == 0:
                raise EngineGone("the other process closed its socket")
            view = view[read:]
        return bytes(buffer)


class AsyncChannel(Generic[Send, Receive]):
    """The asyncio end, used by the front end. Create it inside a running loop with `await AsyncChannel.open(...)`."""

    def __init__(self, receive_type: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Receive] = msgspec.msgpack.Decoder(receive_type)
        self._loop = loop
        self._transport: asyncio.Transport
        self._data = bytearray()  # the beginning of a frame
        self._messages: deque[Receive] = deque()  # those that nobody has taken
        self._take: Callable[[Receive], None] = self._messages.append
        self._error: Exception | None = None  # why there will be no more
        self._waiter: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls, sock: socket.socket, receive_type: Any) -> AsyncChannel[Send, Receive]:
        """Wrap a connected socket for the running event loop."""
        import asyncio  # noqa: PLC0415  (4 MiB that the blocking end does without)

        sock.setblocking(False)
        channel = cls(receive_type, asyncio.get_running_loop())
        await channel._loop.create_connection(lambda: cast("asyncio.Protocol", channel), sock=sock)
        return channel

    def send(self, message: Send) -> None:
        """Queue one message; the loop writes it. A closed other end is seen by `receive()`, not here."""
        if not self._transport.is_closing():
            self._transport.write(encode(self._encoder, message))

    async def receive(self) -> Receive:
        """Wait for one message. Raises: EngineGone at end of file or on a malformed frame."""
        while not self._messages:
            await self._wait()
        return self._messages.popleft()

    async def each(self, take: Callable[[Receive], None]) -> NoReturn:
        """Give every message to `take` until there are no more, in the loop's own call for its bytes: no task wakes.

        Raises: EngineGone at end of file or on a malformed frame; what `take` raises.
        """
        while self._messages:
            take(self._messages.popleft())
        self._take = take
        try:
            while True:
                await self._wait()
        finally:
            self._take = self._messages.append

    def close(self) -> None:
        """Close the socket; the other end sees end of file."""
        self._transport.close()

    # What the loop calls, as of any `asyncio.Protocol`

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ours."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take whole messages out of what has come."""
        try:
            if self._data:
                self._data += data
                data = bytes(self._data) if len(self._data) >= self._whole() else b""
            place = 0
            while self._error is None and len(data) >= place + _LENGTH.size:
                end = place + _LENGTH.size + _checked_length(data[place : place + _LENGTH.size])
                if end > len(data):
                    break
                self._take(self._decoder.decode(memoryview(data)[place + _LENGTH.size : end]))
                place = end
            if data:
                self._data[:] = data[place:]
        except msgspec.MsgspecError as error:
            self._end(EngineGone(f"the other process sent a malformed message: {error}"))
        except Exception as error:  # of who takes, too: whoever waits for `each` hears of it
            self._end(error)
        self._wake()

    def eof_received(self) -> None:
        """The other end is closed; so will ours be."""

    def pause_writing(self) -> None:
        """The other end is slow to read: messages wait in memory."""

    def resume_writing(self) -> None:
        """It has read."""

    def connection_lost(self, error: Exception | None) -> None:
        """The other end is closed, or ours."""
        self._end(EngineGone("the other process closed its socket"))

    def _whole(self) -> int:
        """Bytes of the frame that has begun to come."""
        if len(self._data) < _LENGTH.size:
            return _LENGTH.size
        return _LENGTH.size + _checked_length(bytes(self._data[: _LENGTH.size]))

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        await self._waiter

    def _end(self, error: Exception) -> None:
        self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done() and (self._messages or self._error is not None):
            self._waiter.set_result(None)
