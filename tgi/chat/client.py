"""The HTTP side of `tgi chat`: which models a server has, and one answer as a stream of chunks."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from tgi import __version__
from tgi.errors import ConfigError, TgiError

CONNECT_S = 10.0
SILENCE_S = 600.0  # a long prompt on a small machine: no byte comes before its first token
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")
_ENDINGS = ("/chat/completions", "/completions", "/models", "/v1")
_KEY_HINT = "set `API_KEY` in the environment, or name a file with `--api-key-file`"


class NoServer(TgiError):
    """Nobody answers at the address."""


class Refused(TgiError):
    """The server answered, and said no."""


class ConnectionLost(TgiError):
    """The answer stopped coming before it was complete."""


@dataclass(frozen=True, slots=True)
class ChatServer:
    """An OpenAI-compatible server. `url` has no `/v1` at its end."""

    url: str
    api_key: str | None = field(default=None, repr=False)

    async def models(self) -> list[str]:
        """Names of the models served, adapters of other models left out; empty where the server does not tell.

        Raises: NoServer; Refused where the key is wrong.
        """
        try:
            async with self._session() as session, session.get(f"{self.url}/v1/models") as response:
                if response.status in (401, 403):
                    raise await _refusal(response)
                if response.status != 200:
                    return []
                return _model_names(await response.json(content_type=None))
        except aiohttp.ClientConnectionError as error:
            raise self._absent() from error
        except TimeoutError as error:
            raise self._absent() from error
        except (aiohttp.ClientError, ValueError):
            return []  # an answer, though no list of models: chatting may still work

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Post one chat request and yield the chunks of its answer as they arrive.

        Raises: NoServer, Refused; ConnectionLost where the stream broke off.
        """
        begun = finished = False
        try:
            async with (
                self._session() as session,
                session.post(f"{self.url}/v1/chat/completions", json=dict(body)) as response,
            ):
                if response.status != 200:
                    raise await _refusal(response)
                begun = True
                if "json" in response.headers.get("content-type", ""):
                    yield _whole(await response.json(content_type=None))  # a server that cannot stream
                    return
                async for data in events(response.content.iter_any()):
                    if data == "[DONE]":
                        return
                    chunk = _chunk(data)
                    finished = finished or any(choice.get("finish_reason") for choice in chunk.get("choices") or [])
                    yield chunk
        except (aiohttp.ClientError, OSError, ValueError) as error:  # OSError has TimeoutError
            raise (self._lost() if begun else self._absent()) from error
        if not finished:
            raise self._lost()

    def _session(self) -> aiohttp.ClientSession:
        headers = {"user-agent": f"tgi/{__version__}"}
        if self.api_key:
            headers["authorization"] = f"Bearer {self.api_key}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        # A proxy of the environment cannot reach this machine's own loopback interface.
        return aiohttp.ClientSession(headers=headers, timeout=timeout, trust_env=not self._local)

    @property
    def _local(self) -> bool:
        return urlsplit(self.url).hostname in _LOOPBACK

    def _lost(self) -> ConnectionLost:
        return ConnectionLost(
            f"the connection to `{self.url}` was lost before the answer was complete",
            hint="what came is kept; look at the server's log, then ask again",
        )

    def _absent(self) -> NoServer:
        if not self._local:
            return NoServer(f"no server answers at `{self.url}`", hint="check `--url`, and that the server runs")
        port = urlsplit(self.url).port or 80
        command = "tgi serve" + (f" --port {port}" if port != 3000 else "")
        return NoServer(f"no server answers at `{self.url}`", hint=f"start one in another terminal: `{command}`")


def server_url(text: str) -> str:
    """The address of a server as people write it (`localhost:3000`, `https://host/v1/`), without `/v1`.

    Raises: ConfigError naming an address that cannot be one.
    """
    url = text.strip()
    if "://" not in url:
        url = f"http://{url}"
    url = url.rstrip("/")
    for ending in _ENDINGS:
        url = url.removesuffix(ending).rstrip("/")
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number, or too large
        fine = False
    if not fine or any(character.isspace() for character in url):
        raise ConfigError(f"`--url {text}` is no address of a server", hint="give one like `http://127.0.0.1:3000`")
    return url


async def events(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The data of each server-sent event in a stream of bytes cut anywhere. Comments and other fields are skipped."""
    rest, data = b"", list[bytes]()
    async for piece in pieces:
        *lines, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data).decode(errors="replace")
                data = []


def _chunk(data: str) -> dict[str, Any]:
    """Raises: ValueError for what is no JSON object; Refused for an error that came inside the stream."""
    chunk = json.loads(data)
    if not isinstance(chunk, dict):
        raise ValueError("a chunk is an object")
    if chunk.get("error"):
        raise Refused(f"the server gave up: {_words(chunk)}", hint="ask again, or start over with a shorter question")
    return chunk


def _whole(answer: Any) -> dict[str, Any]:
    """An answer that came in one piece, as the one chunk of a stream."""
    if not isinstance(answer, dict):
        raise ValueError("an answer is an object")
    choices = [{**choice, "delta": choice.get("message") or {}} for choice in answer.get("choices") or []]
    return {**answer, "choices": choices}


def _model_names(listed: Any) -> list[str]:
    if not isinstance(listed, dict) or not isinstance(listed.get("data"), list):
        return []
    rows = [row for row in listed["data"] if isinstance(row, dict) and isinstance(row.get("id"), str)]
    return [row["id"] for row in rows if not row.get("parent")]


async def _refusal(response: aiohttp.ClientResponse) -> Refused:
    text = await response.text(errors="replace")
    try:
        said = _words(json.loads(text))
    except ValueError:
        said = text.strip()[:200]
    status = f"{response.status} {response.reason or ''}".strip()
    hints = {
        401: _KEY_HINT,
        403: _KEY_HINT,
        404: "check `--url` and `--model`: is this a server with `/v1/chat/completions`?",
        413: "the conversation has become too long: start over",
        422: "change what the message names; a conversation that has become too long must start over",
        429: "the server is busy: ask again in a moment",
        503: "the server is starting or recovering: ask again in a moment",
    }
    return Refused(f"the server refused ({status}){f': {said}' if said else ''}", hint=hints.get(response.status))


def _words(body: Any) -> str:
    """What an error body says, in OpenAI's shape or TGI's."""
    error = body.get("error", body.get("message", "")) if isinstance(body, dict) else body
    if isinstance(error, dict):
        error = error.get("message", "")
    return str(error or "")
