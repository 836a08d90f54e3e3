"""POST `/v1/completions` (spec/http-api.md section 11)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from tgi.errors import ValidationError
from tgi.server.inference import Generation, Piece, collect, merge
from tgi.server.responses import Completion, CompletionChoice, CompletionChunk, CompletionLogprobs
from tgi.server.routes.openai import FINISH, Envelope, OpenAiRefusal, parameters, stop_rule, usage
from tgi.server.schemas import CompletionRequest, GenerateParameters
from tgi.server.services import Services, read
from tgi.server.tokenizer import Tokenizer
from tgi.server.validation import Prepared


@dataclass(frozen=True, slots=True)
class _Call:
    """One request with everything its answer needs; sequence i continues prompt i // choices."""

    services: Services
    body: CompletionRequest
    asked: GenerateParameters
    prompts: list[str]
    prepared: list[Prepared]  # one a prompt
    choices: int
    envelope: Envelope

    @property
    def characters(self) -> int:
        """Of all prompts."""
        return sum(one.characters for one in self.prepared)

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts."""
        return sum(one.input_length for one in self.prepared)

    def prefix(self, index: int) -> str:
        """What sequence `index` repeats before its answer."""
        return self.prompts[index // self.choices] if self.body.echo else ""


async def completions(request: web.Request) -> web.StreamResponse:
    """POST `/v1/completions`."""
    services, body = await read(request, CompletionRequest)
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    choices = 1 if body.n is None else body.n
    with services.inference.watch() as received:
        _check(services, body, prompts, choices)
        asked = _parameters(body)
        with services.inference.admit(len(prompts) * choices):
            rule = stop_rule(body)
            prepared = [await services.validator.validate(prompt, asked, stop_rule=rule) for prompt in prompts]
            call = _Call(services, body, asked, prompts, prepared, choices, Envelope(services.served.model_id, "cmpl"))
            sequences = [services.validator.choice(one, index) for one in prepared for index in range(choices)]
            with services.inference.generate(sequences, received) as generations:
                if body.stream:
                    return await _stream(call, request, generations)
                pieces = await collect(generations)
        for generation in generations:
            services.inference.succeeded("completions", generation, asked)
    return _answer(call, generations, pieces)


def _answer(call: _Call, generations: list[Generation], pieces: list[list[Piece]]) -> web.Response:
    services, envelope = call.services, call.envelope
    answer = Completion(
        "text_completion", envelope.id, envelope.created, envelope.model, envelope.fingerprint,
        [
            CompletionChoice(
                index,
                call.prefix(index) + generation.text,
                _logprobs(services.tokenizer, pieces[index], len(call.prefix(index)), call),
                FINISH[generation.finish or "length"],
            )
            for index, generation in enumerate(generations)
        ],
        usage(call.prompt_tokens, generations),
    )  # fmt: skip
    return services.answer(
        answer, characters=call.characters, prompt_tokens=call.prompt_tokens, generations=generations,
        timed=generations,
    )  # fmt: skip


async def _stream(call: _Call, request: web.Request, generations: list[Generation]) -> web.StreamResponse:
    services, envelope = call.services, call.envelope
    offsets = [len(call.prefix(index)) for index in range(len(generations))]
    async with (
        services.stream(request, call.characters, openai=True) as events,
        contextlib.aclosing(merge(generations)) as tokens,
    ):
        async for index, piece in tokens:
            text = call.prefix(index) + piece.delta if piece.index == 0 else piece.delta
            logprobs = _logprobs(services.tokenizer, [piece], offsets[index], call)
            offsets[index] += len(piece.text)
            finish = FINISH[piece.finish] if piece.finish is not None else None
            chunk = CompletionChunk(
                "text_completion", envelope.id, envelope.created, [CompletionChoice(index, text, logprobs, finish)],
                envelope.model, envelope.fingerprint,
            )  # fmt: skip
            if piece.finish is not None:
                generation = generations[index]
                chunk.usage = usage(generation.prepared.input_length, [generation])
                services.inference.succeeded("completions", generation, call.asked)
            await events.send(chunk)
    return events.response


def _check(services: Services, body: CompletionRequest, prompts: Sequence[str], choices: int) -> None:
    limit = services.config.limits.max_client_batch_size
    if body.suffix is not None:
        raise OpenAiRefusal(
            "Suffix is not supported and can be achieved by preprocessing the prompt.", "suffix not supported"
        )
    if len(prompts) > limit:
        raise OpenAiRefusal(
            f"Number of prompts exceeds the maximum allowed batch size of {limit}", "batch size exceeded"
        )
    services.validator.check_choices(choices)
    if body.echo and _logprobs_wanted(body):
        raise ValidationError("`echo` together with `logprobs` is not supported")


def _logprobs_wanted(body: CompletionRequest) -> bool:
    return body.logprobs is not None and body.logprobs is not False


def _parameters(body: CompletionRequest) -> GenerateParameters:
    asked = parameters(body)
    asked.repetition_penalty = body.repetition_penalty
    if body.logprobs is not None and not isinstance(body.logprobs, bool):
        asked.top_n_tokens = body.logprobs
    return asked


def _logprobs(tokenizer: Tokenizer, pieces: Sequence[Piece], offset: int, call: _Call) -> CompletionLogprobs | None:
    """OpenAI's columns; `offset` counts the characters before the first of these tokens."""
    if not _logprobs_wanted(call.body):
        return None
    columns = CompletionLogprobs([], [], [] if call.asked.top_n_tokens else None, [])
    for piece in pieces:
        columns.tokens.append(piece.text)
        columns.token_logprobs.append(piece.logprob)
        columns.text_offset.append(offset)
        if columns.top_logprobs is not None:
            columns.top_logprobs.append({tokenizer.text(id): logprob for id, logprob in piece.top})
        offset += len(piece.text)
    return columns
