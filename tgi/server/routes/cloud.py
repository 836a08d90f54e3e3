"""The endpoints that cloud platforms call: SageMaker's `/invocations` and Vertex AI's `/vertex`."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web
from msgspec import Struct

from tgi.errors import RequestError
from tgi.server.routes import chat, completions, generate
from tgi.server.schemas import ChatRequest, GenerateRequest, Rejected, VertexRequest, kind, parse
from tgi.server.services import Services, json_response, peek, read

_NO_REQUEST = "Failed to deserialize the JSON body into the target type: expected `inputs`, `messages` or `prompt`"
_HANDLERS = {
    "inputs": generate.compat_generate,
    "messages": chat.chat_completions,
    "prompt": completions.completions,
}


class Predictions(Struct):
    """The answer of `/vertex`: the texts, in the order of the instances."""

    predictions: list[str]


class NoInstances(RequestError):
    """A call that asks for nothing, in TGI's words."""

    status = 422
    error_type = "Input validation error"


async def invocations(request: web.Request) -> web.StreamResponse:
    """POST `/invocations`: what `/`, `/v1/chat/completions` or `/v1/completions` answers, as the body asks."""
    asked = kind(await peek(request))
    if asked is None:
        raise Rejected(422, _NO_REQUEST)
    return await _HANDLERS[asked](request)


async def vertex(request: web.Request) -> web.StreamResponse:
    """POST `/vertex`: the texts of all instances, generated side by side; the first that fails fails the call."""
    services, body = await read(request, VertexRequest)
    instances = [_instance(bytes(raw)) for raw in body.instances]
    with services.inference.watch() as received:
        if not instances:
            raise NoInstances("Input validation error")
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_predict(services, instance, received)) for instance in instances]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
    return json_response(Predictions([task.result() for task in tasks]))


def _instance(raw: bytes) -> GenerateRequest | ChatRequest:
    return parse(ChatRequest, raw) if kind(raw) == "messages" else parse(GenerateRequest, raw)


async def _predict(services: Services, instance: GenerateRequest | ChatRequest, received: float) -> str:
    if isinstance(instance, ChatRequest):
        return await _converse(services, instance, received)
    # Only the text is answered: the log-probabilities of the prompt would be computed for nothing.
    parameters = msgspec.structs.replace(generate.given_parameters(instance), decoder_input_details=None)
    made = await generate.best(services, "vertex_compatibility", instance.inputs, parameters, received)
    return (instance.inputs if parameters.return_full_text else "") + made.winner.text


async def _converse(services: Services, body: ChatRequest, received: float) -> str:
    parameters = chat.chat_parameters(body)
    with services.inference.admit():
        prepared = await chat.prepare(services, body, parameters)
        with services.inference.generate([prepared], received) as (generation,):
            await generation.collect()
    services.inference.succeeded("vertex_compatibility", generation, parameters)
    return generation.text
