"""POST `/v1/chat/completions` and `/chat_tokenize` (spec/http-api.md section 10)."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import msgspec
from aiohttp import web

from tgi.errors import ToolError, ValidationError
from tgi.server.conversations import last_words, template_messages
from tgi.server.grammars import NOT_SUPPORTED, asked_grammar
from tgi.server.inference import Generation, collect, merge
from tgi.server.responses import ChatChunk, ChatChunkChoice, ChatCompletion, Usage, encode, encode_array
from tgi.server.routes.choices import Choice
from tgi.server.routes.dialect import dialect
from tgi.server.routes.openai import Envelope, parameters, stop_rule, usage, wants_usage
from tgi.server.schemas import MAX_MESSAGES, ChatRequest, GenerateParameters
from tgi.server.services import Services, read
from tgi.server.tool_formats import find_format
from tgi.server.tools import ToolPlan, plan_tools
from tgi.server.validation import Prepared


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """POST `/v1/chat/completions`."""
    services, body = await read(request, ChatRequest)
    count = 1 if body.n is None else body.n
    with services.inference.watch() as received:
        services.validator.check_choices(count)
        with services.inference.admit(count):
            asked = chat_parameters(body)
            first, plan = await _prepare(services, body, asked)
            prepared = [services.validator.choice(first, index) for index in range(count)]
            with services.inference.generate(prepared, received) as generations:
                envelope = Envelope(_model(services, body), "chatcmpl")
                answers = _answers(services, request, body, plan, count)
                if body.stream:
                    return await _stream(services, request, body, asked, envelope, first, generations, answers)
                pieces = await collect(generations)
        for generation in generations:
            services.inference.succeeded("chat_completions", generation, asked)
    choices = [choice.whole(made) for choice, made in zip(answers, pieces, strict=True)]
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
    first: Prepared, generations: list[Generation], answers: list[Choice],
) -> web.StreamResponse:  # fmt: skip
    def chunk(choices: list[ChatChunkChoice], total: Usage | None = None) -> ChatChunk:
        return ChatChunk(
            "chat.completion.chunk", envelope.id, envelope.created, envelope.model, envelope.fingerprint, choices, total
        )

    async with services.stream(request, first.characters, openai=True) as events:
        async with contextlib.aclosing(merge(generations)) as tokens:
            async for index, piece in tokens:
                so_far = usage(first.input_length, [generations[index]]) if wants_usage(body, always=True) else None
                for part in answers[index].push(piece):
                    await events.send(chunk([part], so_far))
                if piece.finish is not None:
                    services.inference.succeeded("chat_completions", generations[index], asked)
        if wants_usage(body):
            await events.send(chunk([], usage(first.input_length, generations)))
    return events.response


def _answers(
    services: Services, request: web.Request, body: ChatRequest, plan: ToolPlan | None, count: int
) -> list[Choice]:
    spoken = dialect(request, body.messages, numbered=plan is not None and plan.numbers_calls)
    return [Choice(index, plan, services.tokenizer, spoken, logprobs=bool(body.logprobs)) for index in range(count)]


async def prepare(services: Services, body: ChatRequest, asked: GenerateParameters) -> Prepared:
    """A conversation, ready to be generated. Raises: TemplateError, ToolError, ValidationError."""
    return (await _prepare(services, body, asked))[0]


async def _prepare(
    services: Services, body: ChatRequest, asked: GenerateParameters
) -> tuple[Prepared, ToolPlan | None]:
    prompt, plan = await _prompt(services, body)
    prepared = await services.validator.validate(prompt, asked, add_special_tokens=False, stop_rule=stop_rule(body))
    if plan is None:
        return prepared, None
    built = await plan.grammar(services.grammars.compile, services.tokenizer.special_tokens)
    grammar = await services.grammars.check(built)
    return replace(prepared, sampling=msgspec.structs.replace(prepared.sampling, grammar=grammar)), plan


def chat_parameters(body: ChatRequest) -> GenerateParameters:
    """How a chat request wants to be generated."""
    asked = parameters(body)
    asked.top_n_tokens = body.top_logprobs
    return asked


async def render_prompt(services: Services, body: ChatRequest) -> str:
    """The prompt of a conversation. Raises: TemplateError, ToolError, ValidationError."""
    return (await _prompt(services, body))[0]


async def _prompt(services: Services, body: ChatRequest) -> tuple[str, ToolPlan | None]:
    """The prompt of a conversation, and what is wanted of its tools: nothing when the model shall answer in words."""
    if asked_grammar(body) is not None and body.tools is not None:
        raise ToolError("Grammar and tools are mutually exclusive")
    _check_messages(body)
    template = services.template
    plan = plan_tools(body)
    facts = await template.facts(with_tools=plan is not None)
    messages = template_messages(body.messages, facts)
    if plan is not None:
        if services.config.limits.disable_grammar_support:
            raise ValidationError(NOT_SUPPORTED)
        if facts.tools:
            plan = replace(plan, row=find_format(template.source(with_tools=True)))
        if words := plan.words(shown_by_template=facts.tools):
            messages = last_words(messages, words)
    prompt = await template.render(
        messages, body.chat_template_kwargs, tools=plan.tools if plan is not None else None,
        add_generation_prompt=body.add_generation_prompt is not False, continued=body.continue_final_message,
    )  # fmt: skip
    return prompt, plan


def _check_messages(body: ChatRequest) -> None:
    if body.chat_template is not None:
        raise ValidationError("`chat_template` is not supported: the model's own template is used")
    if len(body.messages) > MAX_MESSAGES:
        raise ValidationError(f"`messages` supports up to {MAX_MESSAGES} messages. Given: {len(body.messages)}")
    if body.add_generation_prompt and body.continue_final_message:
        raise ValidationError("`add_generation_prompt` and `continue_final_message` are mutually exclusive")


def _model(services: Services, body: ChatRequest) -> str:
    """The name to answer with: the client's own, unless it asked for "tgi" or for nothing."""
    return body.model if body.model not in (None, "tgi") else services.served.model_id
