"""POST `/v1/completions` (spec/http-api.md section 11)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace

from aiohttp import web
from msgspec import UNSET, UnsetType

from tgi.errors import ValidationError
from tgi.server.inference import Generation, Piece, collect, merge
from tgi.server.responses import Completion, CompletionChoice, CompletionChunk, CompletionLogprobs, Usage
from tgi.server.routes.openai import FINISH, Envelope, OpenAiRefusal, parameters, stop_rule, wants_usage
from tgi.server.routes.prompts import Prompt, prepare, split
from tgi.server.schemas import CompletionRequest, GenerateParameters
from tgi.server.services import Services, read
from tgi.server.tokenizer import Tokenizer
from tgi.server.validation import MAX_CHOICES, Prepared

MAX_LOGPROBS = 5  # OpenAI's


@dataclass(frozen=True, slots=True)
class _Call:
    """One request with everything its answer needs; sequence i continues prompt i // candidates."""

    services: Services
    body: CompletionRequest
    asked: GenerateParameters
    prompts: list[Prompt]
    choices: int  # answers a prompt
    candidates: int  # sequences a prompt, from which its answers are taken
    envelope: Envelope

    @property
    def characters(self) -> int:
        """Of all prompts."""
        return sum(prompt.prepared.characters for prompt in self.prompts)

    @property
    def prompt_only(self) -> bool:
        """Nothing is asked for but the prompt and its scores: the token that came with them is not shown."""
        return _maximum(self.body) == 0

    def prompt(self, index: int) -> Prompt:
        """What sequence `index` continues."""
        return self.prompts[index // self.candidates]

    def scorer(self, index: int) -> int:
        """The sequence that knows the scores of the prompt that sequence `index` continues."""
        return index - index % self.candidates

    def prefix(self, index: int) -> str:
        """What sequence `index` repeats before its answer."""
        return self.prompt(index).text if self.body.echo else ""

    def usage(self, prompts: Sequence[Prompt], generations: Sequence[Generation]) -> Usage:
        """What these prompts and these sequences cost."""
        asked = sum(prompt.prepared.input_length for prompt in prompts)
        generated = 0 if self.prompt_only else sum(generation.generated for generation in generations)
        return Usage(asked, generated, asked + generated)


async def completions(request: web.Request) -> web.StreamResponse:
    """POST `/v1/completions`."""
    services, body = await read(request, CompletionRequest)
    given = split(body)
    choices = 1 if body.n is None else body.n
    candidates = choices if body.best_of is None else body.best_of
    with services.inference.watch() as received:
        _check(services, body, len(given), choices, candidates)
        asked = _parameters(body)
        with services.inference.admit(len(given) * candidates):
            prompts = [await prepare(services, one, asked, stop_rule(body)) for one in given]
            envelope = Envelope(services.served.model_id, "cmpl")
            call = _Call(services, body, asked, prompts, choices, candidates, envelope)
            with services.inference.generate(_sequences(call), received) as generations:
                if body.stream:
                    return await _stream(call, request, generations)
                pieces = await collect(generations)
        for generation in generations:
            services.inference.succeeded("completions", generation, asked)
    return _answer(call, generations, pieces)


def _sequences(call: _Call) -> list[Prepared]:
    """What the engine gets: one sequence scores the prompt for its siblings."""
    validator, sequences = call.services.validator, []
    for prompt in call.prompts:
        unscored = replace(prompt.prepared, prompt_logprobs=False)
        for index in range(call.candidates):
            sequences.append(validator.choice(unscored if index else prompt.prepared, index))
    return sequences


def _answer(call: _Call, generations: list[Generation], pieces: list[list[Piece]]) -> web.Response:
    envelope = call.envelope
    answer = Completion(
        "text_completion", envelope.id, envelope.created, envelope.model, envelope.fingerprint,
        [
            CompletionChoice(
                index,
                call.prefix(one) + ("" if call.prompt_only else generations[one].text),
                _logprobs(call, one, generations[call.scorer(one)], pieces[one], len(call.prefix(one)), first=True),
                _finish(call, generations[one].finish) or "length",
            )
            for index, one in enumerate(_best(call, pieces))
        ],
        call.usage(call.prompts, generations),
    )  # fmt: skip
    return call.services.answer(
        answer, characters=call.characters, prompt_tokens=answer.usage.prompt_tokens, generations=generations,
        timed=generations,
    )  # fmt: skip


async def _stream(call: _Call, request: web.Request, generations: list[Generation]) -> web.StreamResponse:
    envelope = call.envelope
    total, always = wants_usage(call.body), wants_usage(call.body, always=True)
    offsets = [len(call.prefix(index)) for index in range(len(generations))]

    def chunk(choices: list[CompletionChoice], usage: Usage | UnsetType | None) -> CompletionChunk:
        return CompletionChunk(
            "text_completion", envelope.id, envelope.created, choices, envelope.model, envelope.fingerprint, usage
        )

    async with (
        call.services.stream(request, call.characters, openai=True) as events,
        contextlib.aclosing(merge(generations)) as merged,
        contextlib.aclosing(_after_scores(call, merged)) as tokens,
    ):
        async for index, piece in tokens:
            generation = generations[index]
            first = piece.index == 0
            text = (call.prefix(index) if first else "") + ("" if call.prompt_only else piece.delta)
            logprobs = _logprobs(call, index, generations[call.scorer(index)], [piece], offsets[index], first=first)
            offsets[index] += len(piece.text)
            usage: Usage | UnsetType | None = None if total else UNSET
            if always or (piece.finish is not None and not total):  # TGI's last chunk has it, asked for or not
                usage = call.usage([call.prompt(index)], [generation])
            if piece.finish is not None:
                call.services.inference.succeeded("completions", generation, call.asked)
            choice = CompletionChoice(index, text, logprobs, _finish(call, piece.finish))
            await events.send(chunk([choice], usage))
        if total:
            await events.send(chunk([], call.usage(call.prompts, generations)))
    return events.response


async def _after_scores(
    call: _Call, tokens: AsyncGenerator[tuple[int, Piece], None]
) -> AsyncGenerator[tuple[int, Piece], None]:
    """The tokens as they come, but those of a sequence only once the scores of its prompt are known."""
    scored: set[int] = set()
    held: dict[int, list[tuple[int, Piece]]] = {}
    async for index, piece in tokens:
        scorer = call.scorer(index)
        if index != scorer and scorer not in scored and call.asked.decoder_input_details:
            held.setdefault(scorer, []).append((index, piece))
            continue
        yield index, piece
        scored.add(scorer)
        for waited in held.pop(scorer, ()):
            yield waited


def _check(services: Services, body: CompletionRequest, prompts: int, choices: int, candidates: int) -> None:
    limit = services.config.limits.max_client_batch_size
    if body.suffix is not None:
        raise OpenAiRefusal(
            "Suffix is not supported and can be achieved by preprocessing the prompt.", "suffix not supported"
        )
    if prompts > limit:
        raise OpenAiRefusal(
            f"Number of prompts exceeds the maximum allowed batch size of {limit}", "batch size exceeded"
        )
    services.validator.check_choices(choices)
    if not choices <= candidates <= MAX_CHOICES:
        raise ValidationError(f"`best_of` must be >= `n` and <= {MAX_CHOICES}. Given: {candidates}")
    if body.stream and candidates != choices:
        raise ValidationError("`best_of` must be equal to `n` when streaming tokens")
    if _top(body) > MAX_LOGPROBS:
        raise ValidationError(f"`logprobs` must be >= 0 and <= {MAX_LOGPROBS}. Given: {_top(body)}")


def _maximum(body: CompletionRequest) -> int | None:
    return body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens


def _logprobs_wanted(body: CompletionRequest) -> bool:
    return body.logprobs is not None and body.logprobs is not False


def _top(body: CompletionRequest) -> int:
    """How many likely tokens are shown at each position."""
    return body.logprobs if body.logprobs is not None and not isinstance(body.logprobs, bool) else 0


def _parameters(body: CompletionRequest) -> GenerateParameters:
    asked = parameters(body)
    asked.top_n_tokens = _top(body)
    if body.echo:
        asked.decoder_input_details = _logprobs_wanted(body)
        if asked.max_new_tokens == 0:  # the engine scores a prompt while it makes the first token
            asked.max_new_tokens = 1
    return asked


def _finish(call: _Call, finish: str | None) -> str | None:
    return None if finish is None else "length" if call.prompt_only else FINISH[finish]


def _best(call: _Call, pieces: list[list[Piece]]) -> list[int]:
    """The sequences that are answers: of each prompt's candidates, those whose tokens are likeliest on average."""
    answers: list[int] = []
    for first in range(0, len(pieces), call.candidates):
        candidates = range(first, first + call.candidates)
        if call.candidates > call.choices:
            answers += sorted(candidates, key=lambda one: -_mean_logprob(pieces[one]))[: call.choices]
        else:
            answers += candidates
    return answers


def _mean_logprob(pieces: Sequence[Piece]) -> float:
    mean = math.fsum(piece.logprob for piece in pieces) / max(1, len(pieces))
    return -math.inf if math.isnan(mean) else mean


def _logprobs(
    call: _Call, index: int, generation: Generation, pieces: Sequence[Piece], offset: int, *, first: bool
) -> CompletionLogprobs | None:  # fmt: skip
    """OpenAI's columns; `offset` counts the characters before `pieces`, and an echoed prompt comes with the `first`.

    `generation` knows the scores of the prompt.
    """
    if not _logprobs_wanted(call.body):
        return None
    columns = CompletionLogprobs([], [], [] if call.asked.top_n_tokens else None, [])
    tokenizer = call.services.tokenizer
    if first and call.body.echo:
        prompt = call.prompt(index)
        columns.tokens += prompt.tokens
        columns.token_logprobs += generation.prompt_logprobs
        columns.text_offset += prompt.offsets
        if columns.top_logprobs is not None:
            scores = zip(prompt.tokens, generation.prompt_logprobs, generation.prompt_top, strict=True)
            columns.top_logprobs += [_likely(tokenizer, token, logprob, top) for token, logprob, top in scores]
    for piece in () if call.prompt_only else pieces:
        columns.tokens.append(piece.text)
        columns.token_logprobs.append(piece.logprob)
        columns.text_offset.append(offset)
        if columns.top_logprobs is not None:
            columns.top_logprobs.append(_likely(tokenizer, piece.text, piece.logprob, piece.top))
        offset += len(piece.text)
    return columns


def _likely(
    tokenizer: Tokenizer, token: str, logprob: float | None, top: Sequence[tuple[int, float]]
) -> dict[str, float | None] | None:
    """The likely tokens at one position, most likely first, and the one that is there; None before the first token.

    Where tokens have the same text (parts of characters all show as U+FFFD), the likeliest stands for them.
    """
    if logprob is None:
        return None
    likely: dict[str, float | None] = {}
    for token_id, value in top:
        likely.setdefault(tokenizer.text(token_id), value)
    likely.setdefault(token, logprob)
    return likely
