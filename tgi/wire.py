"""Frames over a socket: a 4-byte little-endian length and one msgspec message in MessagePack.

The two ends of a `socket.socketpair()` hold a `Channel` (blocking; the engine) and an `AsyncChannel` (asyncio; the
front end). End of file means that the other process is gone. Nothing on a channel is ever unpickled.
"""

from __future__ import annotations

import select
import socket
import struct
from typing import TYPE_CHECKING, Any, Generic, TypeVar

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

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, receive_type: Any) -> None:
        self._reader = reader
        self._writer = writer
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Receive] = msgspec.msgpack.Decoder(receive_type)

    @classmethod
    async def open(cls, sock: socket.socket, receive_type: Any) -> AsyncChannel[Send, Receive]:
        """Wrap a connected socket for the running event loop."""
        import asyncio  # noqa: PLC0415  (4 MiB that the blocking end does without)

        sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sock)
        return cls(reader, writer, receive_type)

    def send(self, message: Send) -> None:
        """Queue one message; the loop writes it. A closed other end is seen by `receive()`, not here."""
        if not self._writer.is_closing():
            self._writer.write(encode(self._encoder, message))

    async def receive(self) -> Receive:
        """Wait for one message. Raises: EngineGone at end of file or on a malformed frame."""
        try:
            length = _checked_length(await self._reader.readexactly(_LENGTH.size))
            return self._decoder.decode(await self._reader.readexactly(length))
        except (EOFError, OSError) as error:
            raise EngineGone("the other process closed its socket") from error
        except msgspec.MsgspecError as error:
            raise EngineGone(f"the other process sent a malformed message: {error}") from error

    def close(self) -> None:
        """Close the socket; the other end sees end of file."""
        self._writer.close()
