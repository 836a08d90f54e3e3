"""The front end around a fake engine, on a real socket, and tokenizers small enough to read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tests.fakes import FakeSupervisor, echo, make_ready
from tgi.config import Config, Http, Limits
from tgi.engine.messages import EngineRequest
from tgi.hub.tokenizer_files import TokenizerFiles
from tgi.server.app import listening, make_services
from tgi.server.ports import reserve
from tgi.server.services import Served, Services
from tgi.server.tokenizer import _byte_of_character
from tgi.server.tracing import Tracing

BOS, EOS, MARK = 256, 257, 258  # special tokens of `byte_level()`
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)

Respond = Callable[[EngineRequest], Iterable[Any]]


def byte_level(*, add_bos: bool = False) -> Tokenizer:
    """A byte-level BPE in which token id b is the byte b; no merges."""
    vocabulary = {character: byte for character, byte in _byte_of_character().items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<s>", "</s>", "<|mark|>")])
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return tokenizer


def sentence_piece() -> Tokenizer:
    """A SentencePiece-like BPE with byte fallback, as Llama 2 has: ids 3..258 are the bytes, then words."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz", "▁a", "▁the", "ing", "é", "你"]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, *letters])}
    merges = [("▁", "a")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<unk>", "<s>", "</s>")])
    return tokenizer


def answering(text: str | bytes, *then: Any) -> Respond:
    """An engine that generates these bytes, then `then` (EOS by default), for every request."""
    data = text.encode() if isinstance(text, str) else text
    return lambda request: [*data, *(then or (EOS,))]


@dataclass
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The parsed events of a stream; `[DONE]` stays text."""
        lines = [line for line in self.body.decode().split("\n\n") if line.startswith("data: ")]
        return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


class Server:
    """A running front end."""

    def __init__(
        self, url: str, services: Services, supervisor: FakeSupervisor, session: aiohttp.ClientSession
    ) -> None:
        self.url = url
        self.services = services
        self.supervisor = supervisor
        self.session = session

    async def post(self, path: str, body: Any, **headers: str) -> Answer:
        """POST JSON (or bytes, as they are)."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers.setdefault("content-type", "application/json")
        return await self.request("POST", path, data=data, headers=headers)

    async def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return await self.request("GET", path, headers=headers)

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        """Any request."""
        async with self.session.request(method, self.url + path, **options) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, headers, await response.read())

    async def metric(self, name: str) -> float:
        """The value of one series, written as in the exposition."""
        text = (await self.get("/metrics")).body.decode()
        return float(next(line for line in text.splitlines() if line.startswith(name + " ")).split()[-1])


@contextlib.asynccontextmanager
async def serve(
    respond: Respond = echo, *, limits: Limits | None = None, http: Http | None = None,
    tokenizer: Tokenizer | None = None, template: str | None = TEMPLATE, max_total_tokens: int = 1024,
    pipeline_tag: str | None = None, model_id: str = "tiny", tracing: Tracing | None = None,
) -> AsyncIterator[Server]:  # fmt: skip
    """A front end on a free port, with a fake engine that answers with `respond`."""
    config = Config(limits=limits or Limits(), http=http or Http(hostname="127.0.0.1", port=0))
    supervisor = FakeSupervisor(respond, ready=make_ready(vocab_size=320, max_total_tokens=max_total_tokens))
    ready = await supervisor.start()
    files = TokenizerFiles(
        tokenizer or byte_level(), {"bos_token": "<s>", "eos_token": "</s>"}, template, frozenset({EOS}), None
    )
    services = make_services(config, Served(model_id=model_id, pipeline_tag=pipeline_tag), files, supervisor, ready)  # type: ignore[arg-type]
    services.tracing = tracing
    reservation = reserve("127.0.0.1", 0)
    try:
        async with listening(services, reservation), aiohttp.ClientSession() as session:
            yield Server(f"http://127.0.0.1:{reservation.port}", services, supervisor, session)
    finally:
        services.tokenizer.close()
        services.template.close()
        reservation.close()
