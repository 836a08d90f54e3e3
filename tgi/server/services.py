"""What every handler may use, made once before the port opens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tgi import __version__
from tgi.config import Config
from tgi.engine.messages import EngineReady
from tgi.hub.files import FileHash
from tgi.server.grammars import Grammars
from tgi.server.inference import Generation, Inference
from tgi.server.metrics import Metrics
from tgi.server.protocol import read_body
from tgi.server.renderer import Renderer
from tgi.server.responses import encode
from tgi.server.schemas import Body, parse
from tgi.server.sse import EventStream
from tgi.server.tokenizer import Tokenizer
from tgi.server.tracing import Tracing
from tgi.server.validation import Validator

if TYPE_CHECKING:
    from tgi.server.recovery import EngineSupervisor

FINGERPRINT = f"{__version__}-native"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What is being served, as `/info` and `/v1/models` tell it."""

    model_id: str
    sha: str | None = None
    pipeline_tag: str | None = None
    files: tuple[FileHash, ...] = ()
    compute_type: str = "gpu+optimized"  # TGI's word when nobody says otherwise


@dataclass(slots=True, kw_only=True)
class Services:
    """The parts of a running server."""

    config: Config
    served: Served
    ready: EngineReady
    supervisor: EngineSupervisor
    tokenizer: Tokenizer
    template: Renderer
    validator: Validator
    metrics: Metrics
    inference: Inference
    grammars: Grammars
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)  # the model's own words, for `/tokenizer_info`
    tracing: Tracing | None = None
    draining: bool = False
    count_connections: Callable[[], int] = lambda: 0  # open ones; set when the port is

    @property
    def health(self) -> str:
        """`ready`, or what keeps requests from being served: `starting`, `recovering`, `draining`, `failed`."""
        return "draining" if self.draining else self.supervisor.state

    def stream(self, request: web.Request, characters: int, *, openai: bool, **headers: str) -> EventStream:
        """A response of events to this request; `characters` are the prompt's."""
        return EventStream(
            request,
            {"x-compute-type": self.served.compute_type, "x-compute-characters": str(characters), **headers},
            openai=openai,
            recovering=lambda: self.supervisor.state == "recovering",
            on_failure=self.inference.failed,
            on_slow_client=self.metrics.aborted.labels("slow_client").inc,
        )

    def answer(
        self,
        answer: Any,
        *,
        characters: int,
        prompt_tokens: int,
        generations: Sequence[Generation],
        timed: Sequence[Generation],
    ) -> web.Response:
        """A JSON answer with the headers of spec/http-api.md section 14; times are summed over `timed`."""
        total_s = sum(one.timings.total_s for one in timed)
        inference_s = sum(one.timings.inference_s for one in timed)
        headers = {
            "x-compute-type": self.served.compute_type,
            "x-compute-characters": str(characters),
            "x-compute-time": repr(total_s),
            "x-total-time": _milliseconds(total_s),
            "x-validation-time": _milliseconds(sum(one.timings.validation_s for one in timed)),
            "x-queue-time": _milliseconds(sum(one.timings.queue_s for one in timed)),
            "x-inference-time": _milliseconds(inference_s),
            "x-time-per-token": _milliseconds(sum(one.timings.per_token_s(one.generated) for one in timed)),
            "x-prompt-tokens": str(prompt_tokens),
            "x-generated-tokens": str(sum(one.generated for one in generations)),
        }
        return json_response(answer, headers)


SERVICES = web.AppKey("services", Services)


_BODY: Any = web.RequestKey("body", bytes) if hasattr(web, "RequestKey") else "tgi.body"  # aiohttp 3.14 has keys


async def peek(request: web.Request) -> bytes:
    """The request's body, left where `read` finds it again. Raises: Rejected."""
    if _BODY not in request:
        request[_BODY] = await read_body(request, request.app[SERVICES].config.limits.payload_limit)
    body: bytes = request[_BODY]
    return body


async def read(request: web.Request, type: type[Body]) -> tuple[Services, Body]:
    """The server's parts and the request's body. Raises: Rejected."""
    parsed = parse(type, await peek(request))
    del request[_BODY]  # a request may last for minutes, and its body may be large
    return request.app[SERVICES], parsed


def json_response(answer: Any, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer of status 200."""
    return web.Response(body=encode(answer), headers=headers, content_type="application/json")


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
