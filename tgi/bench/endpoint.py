"""Finds out what answers at a URL, and writes requests in its words."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
from msgspec import Struct

from tgi.bench.results import Model, Target
from tgi.bench.streams import CHAT, COMPLETIONS, PATHS, TGI
from tgi.errors import ConfigError, TgiError

_KEY_HINT = "give the key with `--api-key-file`, or set API_KEY in the environment"
_DETECT_S = 30.0
_T = TypeVar("_T")


class NoServer(TgiError):
    """Nobody answers at the URL, or not as a server of language models."""


class Sampling(Struct, kw_only=True, frozen=True):
    """How tokens are chosen, in the words of TGI's benchmark; None is "not given"."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    watermark: bool = False
    do_sample: bool = False
    top_n_tokens: int = 0


class Info(Struct, kw_only=True):
    """What `/info` tells, as far as it matters here."""

    model_id: str = ""
    model_sha: str | None = None
    model_hash: str | None = None  # ours: one SHA-256 for all files
    model_dtype: str | None = None
    model_device_type: str | None = None
    version: str | None = None
    max_total_tokens: int | None = None
    max_concurrent_requests: int | None = None
    max_step_tokens: int | None = None
    max_batch_size: int | None = None
    router: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server and the way to talk to it."""

    target: Target
    route: str  # whole URL of the generating route
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    info: Info | None = None
    sampling: Sampling = field(default_factory=Sampling)
    ignore_eos: bool = True

    @property
    def base(self) -> str:
        """The server's URL without a path."""
        return self.target.url

    @property
    def protocol(self) -> str:
        """`tgi`, `chat` or `completions`."""
        return self.target.protocol

    def body(self, prompt: str, output_tokens: int, *, history: Sequence[tuple[str, str]] = ()) -> bytes:
        """A request for `output_tokens` tokens after `prompt`; `history` holds earlier prompts and answers."""
        if self.protocol == TGI:
            return self._tgi_body("".join(f"{asked}{said}" for asked, said in history) + prompt, output_tokens)
        body: dict[str, Any] = {"model": self.target.model.id}
        if self.protocol == CHAT:
            messages = [
                {"role": role, "content": text}
                for asked, said in history
                for role, text in (("user", asked), ("assistant", said))
            ]
            body["messages"] = [*messages, {"role": "user", "content": prompt}]
        else:
            body["prompt"] = "".join(f"{asked}{said}" for asked, said in history) + prompt
        body |= {"max_tokens": output_tokens, "stream": True, "stream_options": {"include_usage": True}}
        return msgspec.json.encode(body | self._openai_sampling())

    def _tgi_body(self, prompt: str, output_tokens: int) -> bytes:
        chosen = msgspec.structs.asdict(self.sampling)
        given = {
            name: value
            for name, value in chosen.items()
            if value not in (None, False) and (name, value) != ("top_n_tokens", 0)
        }
        parameters = {"max_new_tokens": output_tokens, "details": True, **given}
        if self.ignore_eos:
            parameters["ignore_eos"] = True
        return msgspec.json.encode({"inputs": prompt, "parameters": parameters})

    def _openai_sampling(self) -> dict[str, Any]:
        sampling = self.sampling
        temperature = sampling.temperature
        if temperature is None:
            temperature = 1.0 if sampling.do_sample else 0.0
        values: dict[str, Any] = {
            "temperature": temperature, "top_p": sampling.top_p, "top_k": sampling.top_k,
            "frequency_penalty": sampling.frequency_penalty, "repetition_penalty": sampling.repetition_penalty,
            "ignore_eos": True if self.ignore_eos else None,
        }  # fmt: skip
        return {name: value for name, value in values.items() if value is not None}


def split_url(url: str) -> tuple[str, str | None]:
    """The server's URL and, if the URL names a route, that route's protocol. Raises: ConfigError."""
    text = url if "://" in url else f"http://{url}"
    parts = urlsplit(text)
    try:
        named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        named = False
    if parts.scheme not in ("http", "https") or not named:
        raise ConfigError(f"`{url}` is no URL of a server", hint="give one such as `http://127.0.0.1:3000`")
    path = parts.path.rstrip("/")
    protocol = None
    for name, route in PATHS.items():
        if path.endswith(route):
            path, protocol = path.removesuffix(route), name
            break
    else:
        path = path.removesuffix("/v1").removesuffix("/generate")
    return f"{parts.scheme}://{parts.netloc}{path}", protocol


async def connect(
    session: aiohttp.ClientSession, url: str, *, protocol: str | None = None, model: str | None = None,
    api_key: str | None = None, sampling: Sampling | None = None,
) -> Endpoint:  # fmt: skip
    """What answers at `url`; `protocol` and `model` are asked for where they are not given.

    Raises: ConfigError for a bad URL, NoServer where nothing useful answers.
    """
    base, named = split_url(url)
    protocol = protocol or named
    headers = {"content-type": "application/json"}
    if api_key:
        headers["authorization"] = f"Bearer {api_key}"
    info = await _get(session, f"{base}/info", headers, Info)
    if info is not None and not info.model_id:
        info = None
    listed = await _get(session, f"{base}/v1/models", headers, _Models)
    served = listed.data[0] if listed is not None and listed.data else None
    name = model or (served.id if served else None) or (info.model_id if info else None)
    if protocol is None and info is not None:
        protocol = TGI
    if protocol is None and name is None:
        raise NoServer(
            f"`{base}` answers neither `/info` nor `/v1/models`",
            hint="name the protocol and the model: `--protocol chat --model NAME`",
        )
    endpoint = Endpoint(
        target=Target(
            url=base, protocol=protocol or COMPLETIONS, server=_server_name(info, served),
            model=Model(id=name or "unknown", revision=info.model_sha if info else None,
                        hash=f"sha256:{info.model_hash}" if info and info.model_hash else None,
                        dtype=info.model_dtype if info else None, device=info.model_device_type if info else None),
        ),
        route=base + PATHS[protocol or COMPLETIONS], headers=headers, info=info, sampling=sampling or Sampling(),
    )  # fmt: skip
    return await _probe(session, endpoint, fixed=protocol is not None)


async def _probe(session: aiohttp.ClientSession, endpoint: Endpoint, *, fixed: bool) -> Endpoint:
    """Send one token's worth of request: the route must be there, and `ignore_eos` may be refused by strict servers."""
    status, text = await _try(session, endpoint)
    if status in (400, 422) and endpoint.protocol != TGI:
        plain = replace(endpoint, ignore_eos=False)
        again, text_again = await _try(session, plain)
        if again == 200 or not fixed:
            endpoint, status, text = plain, again, text_again
    if status == 200:
        return endpoint
    if not fixed and endpoint.protocol == COMPLETIONS:
        chat = replace(
            endpoint, target=replace(endpoint.target, protocol=CHAT), route=endpoint.base + PATHS[CHAT], ignore_eos=True
        )
        return await _probe(session, chat, fixed=True)
    hint = _KEY_HINT if status in (401, 403) else "try another `--protocol`: tgi, chat or completions"
    raise NoServer(f"`{endpoint.route}` answers {status}: {text[:120] or 'nothing'}", hint=hint)


async def _try(session: aiohttp.ClientSession, endpoint: Endpoint) -> tuple[int, str]:
    body = endpoint.body("Hello", 1)
    try:
        async with session.post(endpoint.route, data=body, headers=endpoint.headers) as response:
            return response.status, " ".join((await response.text(errors="replace")).split())
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        raise _absent(endpoint.base, error) from error


class _ServedModel(Struct):
    id: str
    owned_by: str | None = None


class _Models(Struct):
    data: list[_ServedModel] = []


async def _get(session: aiohttp.ClientSession, url: str, headers: Mapping[str, str], kind: type[_T]) -> _T | None:
    """The JSON at `url`; None where there is none. Raises: NoServer."""
    timeout = aiohttp.ClientTimeout(total=_DETECT_S)
    try:
        async with session.get(url, headers=headers, timeout=timeout) as response:
            if response.status in (401, 403):
                raise NoServer(f"`{url}` answers {response.status}: it wants a key", hint=_KEY_HINT)
            return msgspec.json.decode(await response.read(), type=kind) if response.status == 200 else None
    except msgspec.DecodeError:
        return None
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        raise _absent(url.removesuffix("/info").removesuffix("/v1/models"), error) from error


def _absent(base: str, error: BaseException) -> NoServer:
    reason = "no answer in time" if isinstance(error, TimeoutError) else "the connection failed"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        reason = os.strerror(number).lower() if number else str(error.os_error).lower()
    return NoServer(
        f"nobody answers at `{base}`: {reason}",
        hint="start a server with `tgi serve`, or let `tgi bench --model-id X` start one",
    )


def _server_name(info: Info | None, served: _ServedModel | None) -> str:
    if info is not None:
        return f"TGI {info.version}" if info.version else "TGI"
    owner = served.owned_by if served else None
    return owner if owner in ("vllm", "llamacpp", "sglang") else "OpenAI-compatible"
