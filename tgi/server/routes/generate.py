"""TGI's own endpoints: `/generate`, `/generate_stream`, and `/`, which is either."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from aiohttp import web
from msgspec import UNSET

from tgi.errors import RequestError, Unavailable
from tgi.server.inference import Generation, Piece, collect
from tgi.server.middleware import retry_headers
from tgi.server.responses import (
    BestOfSequence,
    Details,
    GenerateResponse,
    PrefillToken,
    StreamDetails,
    StreamResponse,
    Token,
)
from tgi.server.schemas import GenerateParameters, GenerateRequest
from tgi.server.services import Services, read
from tgi.server.tokenizer import Tokenizer
from tgi.server.validation import Prepared


async def generate(request: web.Request) -> web.StreamResponse:
    """POST `/generate`."""
    services, body = await read(request, GenerateRequest)
    return await _answer(services, "generate", body)


async def generate_stream(request: web.Request) -> web.StreamResponse:
    """POST `/generate_stream`."""
    services, body = await read(request, GenerateRequest)
    return await _stream(services, request, "generate_stream", body)


async def compat_generate(request: web.Request) -> web.StreamResponse:
    """POST `/`: as the hub's inference API, an array of one, and the prompt is part of the answer by default."""
    services, body = await read(request, GenerateRequest)
    body.parameters = given_parameters(body)
    if body.parameters.return_full_text is None:
        body.parameters.return_full_text = services.served.pipeline_tag in (None, "text-generation")
    if body.stream:
        return await _stream(services, request, "compat_generate", body)
    return await _answer(services, "compat_generate", body, as_array=True)


def given_parameters(body: GenerateRequest) -> GenerateParameters:
    """The parameters of a request; without any, TGI samples."""
    return GenerateParameters(do_sample=True) if body.parameters is None else body.parameters


@dataclass(frozen=True, slots=True)
class Best:
    """The complete sequences of one request, the best of which is its answer."""

    first: Prepared
    generations: list[Generation]
    pieces: list[list[Piece]]
    index: int  # of the best; the first of equals

    @property
    def winner(self) -> Generation:
        """The best sequence."""
        return self.generations[self.index]


async def best(services: Services, name: str, inputs: str, parameters: GenerateParameters, received: float) -> Best:
    """Generate a request without streaming. Raises: RequestError."""
    count = max(1, parameters.best_of or 1)
    if count > 1:
        services.validator.check_best_of(count)
    with services.inference.admit(count):
        first = await services.validator.validate(inputs, parameters)
        # The first scores the prompt for all; the others then find its blocks computed.
        unscored = replace(first, prompt_logprobs=False)
        prepared = [first, *(services.validator.reseed(unscored) for _ in range(count - 1))]
        with services.inference.generate(prepared, received) as generations:
            pieces = await collect(generations)
    index = max(range(count), key=lambda index: _mean_logprob(pieces[index]))
    services.inference.succeeded(name, generations[index], parameters)
    return Best(first, generations, pieces, index)


async def _answer(services: Services, name: str, body: GenerateRequest, *, as_array: bool = False) -> web.Response:
    parameters = given_parameters(body)
    with services.inference.watch() as received:
        made = await best(services, name, body.inputs, parameters, received)
    first, winner = made.first, made.winner
    prefix = body.inputs if parameters.return_full_text else ""
    answer = GenerateResponse(generated_text=prefix + winner.text)
    if parameters.details or parameters.decoder_input_details:
        prefill = _prefill(services.tokenizer, made.generations[0])
        sequences = [
            _sequence(services.tokenizer, *pair, prefix, prefill)
            for pair in zip(made.generations, made.pieces, strict=True)
        ]
        won = sequences.pop(made.index)
        answer.details = Details(
            finish_reason=won.finish_reason, generated_tokens=won.generated_tokens, seed=won.seed, prefill=won.prefill,
            tokens=won.tokens, best_of_sequences=sequences or UNSET, top_tokens=won.top_tokens,
        )  # fmt: skip
    return services.answer(
        [answer] if as_array else answer, characters=first.characters, prompt_tokens=first.input_length,
        generations=[winner], timed=[winner],
    )  # fmt: skip


async def _stream(services: Services, request: web.Request, name: str, body: GenerateRequest) -> web.StreamResponse:
    parameters = given_parameters(body)
    characters = len(body.inputs)
    with services.inference.watch() as received:
        try:
            services.validator.check_stream(parameters)
            with services.inference.admit():
                prepared = await services.validator.validate(body.inputs, parameters)
                with services.inference.generate([prepared], received) as (generation,):
                    async with services.stream(request, characters, openai=False) as events:
                        async for piece in generation:
                            await events.send(_event(services.tokenizer, generation, piece, body.inputs, parameters))
                        services.inference.succeeded(name, generation, parameters)
                    return events.response
        except Unavailable:
            raise
        except RequestError as error:  # refused before its stream began: TGI answers 200 and says it in the stream
            services.metrics.reject(error.status)
            async with services.stream(request, characters, openai=False, **retry_headers(error)) as events:
                raise
            return events.response


def _event(
    tokenizer: Tokenizer, generation: Generation, piece: Piece, inputs: str, parameters: GenerateParameters
) -> StreamResponse:
    event = StreamResponse(
        index=piece.index + 1,
        token=Token(piece.id, piece.text, piece.logprob, piece.special),
        top_tokens=_top(tokenizer, piece) or UNSET,
    )
    if piece.finish is not None:
        event.generated_text = (inputs if parameters.return_full_text else "") + generation.text
        if parameters.details:
            event.details = StreamDetails(
                finish_reason=piece.finish, generated_tokens=generation.generated, seed=generation.prepared.seed,
                input_length=generation.prepared.input_length,
            )  # fmt: skip
    return event


def _prefill(tokenizer: Tokenizer, generation: Generation) -> list[PrefillToken]:
    """The prompt and its scores, where they are asked for."""
    if not generation.prepared.prompt_logprobs:
        return []
    scored = zip(generation.prepared.prompt_tokens(), generation.prompt_logprobs, strict=True)
    return [PrefillToken(token_id, tokenizer.text(token_id), logprob) for token_id, logprob in scored]


def _sequence(
    tokenizer: Tokenizer, generation: Generation, pieces: Sequence[Piece], prefix: str, prefill: list[PrefillToken]
) -> BestOfSequence:
    return BestOfSequence(
        generated_text=prefix + generation.text,
        finish_reason=generation.finish or "",
        generated_tokens=generation.generated,
        seed=generation.prepared.seed,
        prefill=prefill,
        tokens=[Token(piece.id, piece.text, piece.logprob, piece.special) for piece in pieces],
        top_tokens=[_top(tokenizer, piece) for piece in pieces] if generation.prepared.top_tokens else UNSET,
    )


def _top(tokenizer: Tokenizer, piece: Piece) -> list[Token]:
    return [Token(id, tokenizer.text(id), logprob, tokenizer.is_special(id)) for id, logprob in piece.top]


def _mean_logprob(pieces: Sequence[Piece]) -> float:
    mean = math.fsum(piece.logprob for piece in pieces) / max(1, len(pieces))
    return -math.inf if math.isnan(mean) else mean
