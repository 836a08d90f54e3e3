"""POST `/v1/chat/completions` and `/chat_tokenize` (spec/http-api.md section 10)."""

from __future__ import annotations

import contextlib
from typing import Any

from aiohttp import web

from tgi.errors import ToolError, ValidationError
from tgi.server.conversations import template_messages
from tgi.server.grammars import asked_grammar
from tgi.server.inference import Piece, collect, merge
from tgi.server.responses import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprob,
    ChatLogprobs,
    TopLogprob,
    Usage,
    encode,
    encode_array,
)
from tgi.server.routes.openai import FINISH, Envelope, parameters, stop_rule, usage, wants_usage
from tgi.server.schemas import MAX_MESSAGES, ChatRequest, GenerateParameters
from tgi.server.services import Services, read
from tgi.server.tokenizer import Tokenizer
from tgi.server.validation import Prepared


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """POST `/v1/chat/completions`."""
    services, body = await read(request, ChatRequest)
    count = 1 if body.n is None else body.n
    with services.inference.watch() as received:
        services.validator.check_choices(count)
        with services.inference.admit(count):
            asked = chat_parameters(body)
            first = await prepare(services, body, asked)
            prepared = [services.validator.choice(first, index) for index in range(count)]
            with services.inference.generate(prepared, received) as generations:
                envelope = Envelope(_model(services, body), "chatcmpl")
                if body.stream:
                    return await _stream(services, request, body, asked, envelope, first, generations)
                pieces = await collect(generations)
        for generation in generations:
            services.inference.succeeded("chat_completions", generation, asked)
    choices = [
        ChatChoice(
            index,
            AssistantMessage("assistant", generation.text),
            _logprobs(services.tokenizer, pieces[index]) if body.logprobs else None,
            FINISH[generation.finish or "length"],
        )
        for index, generation in enumerate(generations)
    ]
    answer = ChatCompletion(
        "chat.completion", envelope.id, envelope.created, envelope.model, envelope.fingerprint, choices,
        usage(first.input_length, generations),
    )  # fmt: skip
    slowest = max(generations, key=lambda generation: generation.timings.total_s)
    return services.answer(
        answer, characters=first.characters, prompt_tokens=first.input_length, generations=generations, timed=[slowest]
    )


async def chat_tokenize(request: web.Request) -> web.StreamResponse:
    """POST `/chat_tokenize`: the prompt a conversation becomes, and its tokens."""
    services, body = await read(request, ChatRequest)
    with services.inference.watch():
        prompt = await render_prompt(services, body)
        tokens = await services.tokenizer.tokenize(prompt, add_special_tokens=False)
    answer = b'{"tokenize_response":%s,"templated_text":%s}' % (await encode_array(tokens), encode(prompt))
    return web.Response(body=answer, content_type="application/json")


async def _stream(
    services: Services, request: web.Request, body: ChatRequest, asked: GenerateParameters, envelope: Envelope,
    first: Prepared, generations: list[Any],
) -> web.StreamResponse:  # fmt: skip
    def chunk(choices: list[ChatChunkChoice], total: Usage | None = None) -> ChatChunk:
        return ChatChunk(
            "chat.completion.chunk", envelope.id, envelope.created, envelope.model, envelope.fingerprint, choices, total
        )

    async with services.stream(request, first.characters, openai=True) as events:
        async with contextlib.aclosing(merge(generations)) as tokens:
            async for index, piece in tokens:
                logprobs = _logprobs(services.tokenizer, [piece]) if body.logprobs else None
                finish = FINISH[piece.finish] if piece.finish is not None else None
                delta = AssistantMessage("assistant", piece.delta)
                await events.send(chunk([ChatChunkChoice(index, delta, logprobs, finish)]))
                if piece.finish is not None:
                    services.inference.succeeded("chat_completions", generations[index], asked)
        if wants_usage(body):
            await events.send(chunk([], usage(first.input_length, generations)))
    return events.response


async def prepare(services: Services, body: ChatRequest, asked: GenerateParameters) -> Prepared:
    """A conversation, ready to be generated. Raises: TemplateError, ToolError, ValidationError."""
    prompt = await render_prompt(services, body)
    return await services.validator.validate(prompt, asked, add_special_tokens=False, stop_rule=stop_rule(body))


def chat_parameters(body: ChatRequest) -> GenerateParameters:
    """How a chat request wants to be generated."""
    asked = parameters(body)
    asked.top_n_tokens = body.top_logprobs
    return asked


async def render_prompt(services: Services, body: ChatRequest) -> str:
    """The prompt of a conversation. Raises: TemplateError, ToolError, ValidationError."""
    _refuse_missing_features(body)
    if body.add_generation_prompt and body.continue_final_message:
        raise ValidationError("`add_generation_prompt` and `continue_final_message` are mutually exclusive")
    template = services.template
    messages = template_messages(body.messages, await template.facts(with_tools=False))
    return await template.render(
        messages, body.chat_template_kwargs, add_generation_prompt=body.add_generation_prompt is not False,
        continued=body.continue_final_message,
    )  # fmt: skip


def _refuse_missing_features(body: ChatRequest) -> None:
    formatted = asked_grammar(body) is not None
    if formatted and body.tools is not None:
        raise ToolError("Grammar and tools are mutually exclusive")
    if body.tools and body.tool_choice != "none":
        raise ValidationError('`tools` are not supported: grammar is not supported; `tool_choice` may be "none"')
    if body.chat_template is not None:
        raise ValidationError("`chat_template` is not supported: the model's own template is used")
    if len(body.messages) > MAX_MESSAGES:
        raise ValidationError(f"`messages` supports up to {MAX_MESSAGES} messages. Given: {len(body.messages)}")


def _model(services: Services, body: ChatRequest) -> str:
    """The name to answer with: the client's own, unless it asked for "tgi" or for nothing."""
    return body.model if body.model not in (None, "tgi") else services.served.model_id


def _logprobs(tokenizer: Tokenizer, pieces: list[Piece]) -> ChatLogprobs:
    return ChatLogprobs(
        [
            ChatLogprob(
                piece.text, piece.logprob, [TopLogprob(tokenizer.text(id), logprob) for id, logprob in piece.top]
            )
            for piece in pieces
        ]
    )
