"""The one place that judges a request: TGI's rules, TGI's order, TGI's words (spec/http-api.md sections 4 to 6)."""

from __future__ import annotations

import re
import secrets
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from tgi.config import Limits
from tgi.engine.messages import EngineRequest
from tgi.errors import ValidationError
from tgi.sampling import SamplingParams
from tgi.server.constraints import check_constraints, constraints, stop_ids
from tgi.server.detokenizer import StopRule
from tgi.server.grammars import Grammars
from tgi.server.schemas import GenerateParameters, Grammar
from tgi.server.tokenizer import Tokenizer

MAX_CHOICES = 16  # `n` of the OpenAI routes
MAX_STOP_CHARACTERS = 256
MAX_BIASED_TOKENS = 300
MAX_BIAS = 100.0
_SALT = re.compile("[ -~]{1,256}")
# TGI generates in chunks of this many tokens, and checks only that the first chunk fits.
TGI_CHUNK = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request that passed: everything its sequences need, decided and drawn."""

    characters: int  # of the prompt as text
    prompt_ids: bytes  # int32 column, after truncation
    sampling: SamplingParams
    max_new_tokens: int
    stop_ids: tuple[int, ...]
    stops: tuple[str, ...]
    stop_rule: StopRule
    top_tokens: int
    prompt_logprobs: bool
    cache_salt: str

    @property
    def input_length(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt_ids) // 4

    @property
    def seed(self) -> int | None:
        """The seed to report: None when nothing is drawn."""
        return self.sampling.seed if self.sampling.do_sample else None

    def prompt_tokens(self) -> list[int]:
        """The prompt's token ids."""
        ids: list[int] = memoryview(self.prompt_ids).cast("i").tolist()
        return ids

    def engine_request(self, id: int) -> EngineRequest:
        """What the engine gets."""
        return EngineRequest(
            id=id, prompt_ids=self.prompt_ids, sampling=self.sampling, max_new_tokens=self.max_new_tokens,
            stop_ids=self.stop_ids, top_tokens=self.top_tokens, prompt_logprobs=self.prompt_logprobs,
            cache_salt=self.cache_salt,
        )  # fmt: skip


class Validator:
    """Turns what a client asks into what the engine does, or refuses it.

    `max_input_tokens` and `max_total_tokens` are the effective limits (engine, model and flags together), `vocab_size`
    is the width of the logits.
    """

    def __init__(
        self, limits: Limits, tokenizer: Tokenizer, *, max_input_tokens: int, max_total_tokens: int, vocab_size: int,
        grammars: Grammars | None = None, draw_seed: Callable[[], int] = lambda: secrets.randbits(64),
    ) -> None:  # fmt: skip
        self.max_input_tokens = max_input_tokens
        self.max_total_tokens = max_total_tokens
        self._limits = limits
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._grammars = grammars
        self._draw_seed = draw_seed

    def check_stream(self, parameters: GenerateParameters) -> None:
        """What only a native stream refuses. Raises: ValidationError."""
        if parameters.best_of is not None and parameters.best_of != 1:
            raise ValidationError("`best_of` != 1 is not supported when streaming tokens")
        if parameters.decoder_input_details:
            raise ValidationError("`decoder_input_details` == true is not supported when streaming tokens")

    def check_best_of(self, best_of: int) -> None:
        """Whether so many sequences are allowed. Raises: ValidationError."""
        limit = self._limits.max_best_of
        if limit == 1 and best_of != 1:
            raise ValidationError("`best_of` != 1 is not allowed for this endpoint")
        if best_of > limit:
            raise ValidationError(f"`best_of` must be > 0 and <= {limit}. Given: {best_of}")

    def check_choices(self, n: int) -> None:
        """Whether an OpenAI request may have `n` choices. Raises: ValidationError."""
        if not 0 < n <= MAX_CHOICES:
            raise ValidationError(f"`n` must be > 0 and <= {MAX_CHOICES}. Given: {n}")

    def check_token_ids(self, ids: list[int]) -> None:
        """Whether the model has a vector for each of these tokens. Raises: ValidationError."""
        if any(not 0 <= token_id < self._vocab_size for token_id in ids):
            raise ValidationError(f"`prompt` token ids must be >= 0 and < {self._vocab_size}")

    async def validate(
        self, inputs: str, parameters: GenerateParameters, *, add_special_tokens: bool = True,
        stop_rule: StopRule = StopRule.AT_END, ids: list[int] | None = None,
    ) -> Prepared:  # fmt: skip
        """Check a request in TGI's order, tokenize its prompt, and decide its length and its seed.

        A client that sent token `ids` gets them as they are; `inputs` is then their text.
        Raises: ValidationError with the message of the first rule that is broken.
        """
        _check_sampling(parameters)
        self._check_limits(parameters)
        if not (inputs if ids is None else ids):
            raise ValidationError("`inputs` cannot be empty")
        truncate = parameters.truncate
        if truncate is not None and not 0 < truncate <= self.max_input_tokens:
            raise ValidationError(
                f"`truncate` must be strictly positive and less than {self.max_input_tokens}. Given: {truncate}"
            )
        if ids is None:
            ids = await self._tokenizer.encode(inputs, add_special_tokens=add_special_tokens)
        if not ids:  # only characters that the tokenizer drops
            raise ValidationError("`inputs` cannot be empty")
        if truncate is not None:
            ids = ids[-truncate:]
        max_new_tokens = self._output_budget(len(ids), parameters.max_new_tokens)
        grammar = await self._compile(parameters.grammar)
        _refuse_missing_features(parameters)
        chosen = await constraints(parameters, self._tokenizer, longest=max_new_tokens, vocab_size=self._vocab_size)
        return Prepared(
            characters=len(inputs),
            prompt_ids=array("i", ids).tobytes(),
            sampling=msgspec.structs.replace(self._sampling(parameters), grammar=grammar, **chosen),
            max_new_tokens=max_new_tokens,
            stop_ids=stop_ids(parameters, self._tokenizer.eos_ids),
            stops=_stops(parameters),
            stop_rule=stop_rule,
            top_tokens=parameters.top_n_tokens or 0,
            prompt_logprobs=bool(parameters.decoder_input_details),
            cache_salt=parameters.cache_salt or "",
        )

    def reseed(self, prepared: Prepared) -> Prepared:
        """The same request with another seed of its own, for the next sequence of a `best_of`."""
        return replace(prepared, sampling=msgspec.structs.replace(prepared.sampling, seed=self._draw_seed()))

    def choice(self, prepared: Prepared, index: int) -> Prepared:
        """The same request and seed for choice `index` of an `n`: another sequence of the same randomness."""
        return replace(prepared, sampling=msgspec.structs.replace(prepared.sampling, sequence_index=index))

    def _check_limits(self, parameters: GenerateParameters) -> None:
        stops, top = _stops(parameters), parameters.top_n_tokens
        if len(stops) > self._limits.max_stop_sequences:
            raise ValidationError(
                f"`stop` supports up to {self._limits.max_stop_sequences} stop sequences. Given: {len(stops)}"
            )
        if parameters.seed is not None and (parameters.best_of or 1) > 1:
            raise ValidationError("`seed` must not be set when `best_of` > 1")
        if top is not None and top > self._limits.max_top_n_tokens:
            raise ValidationError(f"`top_n_tokens` must be >= 0 and <= {self._limits.max_top_n_tokens}. Given: {top}")
        for stop in stops:
            if not 0 < len(stop) <= MAX_STOP_CHARACTERS:
                raise ValidationError(f"`stop` sequences must have 1 to {MAX_STOP_CHARACTERS} characters")
        if parameters.cache_salt is not None and not _SALT.fullmatch(parameters.cache_salt):
            raise ValidationError("`cache_salt` must have 1 to 256 printable ASCII characters")
        self._check_bias(parameters)
        check_constraints(parameters, self._vocab_size)

    def _check_bias(self, parameters: GenerateParameters) -> None:
        bias = _bias(parameters)
        if len(bias) > MAX_BIASED_TOKENS:
            raise ValidationError(f"`logit_bias` supports up to {MAX_BIASED_TOKENS} tokens. Given: {len(bias)}")
        for token_id, value in bias.items():
            if not 0 <= token_id < self._vocab_size:
                raise ValidationError(f"`logit_bias` token ids must be >= 0 and < {self._vocab_size}")
            if not -MAX_BIAS <= value <= MAX_BIAS:
                raise ValidationError("`logit_bias` must be >= -100.0 and <= 100.0")

    def _output_budget(self, input_length: int, asked: int | None) -> int:
        """How many tokens to generate: what was asked for, and never beyond the context."""
        room = max(0, self.max_total_tokens - input_length)
        chunk = min(room if asked is None else asked, TGI_CHUNK)
        if input_length + chunk > self.max_total_tokens:
            raise ValidationError(
                f"`inputs` tokens + `max_new_tokens` must be <= {self.max_total_tokens}. "
                f"Given: {input_length} `inputs` tokens and {chunk} `max_new_tokens`"
            )
        if input_length > self.max_input_tokens:
            raise ValidationError(f"`inputs` must have less than {self.max_input_tokens} tokens. Given: {input_length}")
        return room if asked is None else min(asked, room)

    async def _compile(self, grammar: Grammar | None) -> str:
        """What the engine gets for a grammar; "" for none. Raises: ValidationError."""
        if grammar is None:
            return ""
        if self._grammars is None or self._limits.disable_grammar_support:
            raise ValidationError("grammar is not supported")
        return await self._grammars.compile(grammar)

    def _sampling(self, parameters: GenerateParameters) -> SamplingParams:
        temperature = 1.0 if parameters.temperature is None else parameters.temperature
        top_p = 1.0 if parameters.top_p is None else parameters.top_p
        typical_p = 1.0 if parameters.typical_p is None else parameters.typical_p
        do_sample = (
            bool(parameters.do_sample)
            or temperature != 1.0
            or parameters.top_k is not None
            or top_p < 1.0
            or typical_p < 1.0
            or bool(parameters.min_p)
        )
        seed = parameters.seed
        if seed is None:
            seed = self._draw_seed() if do_sample else 0
        return SamplingParams(
            do_sample=do_sample,
            temperature=temperature,
            top_k=parameters.top_k or 0,
            top_p=top_p,
            typical_p=typical_p,
            repetition_penalty=1.0 if parameters.repetition_penalty is None else parameters.repetition_penalty,
            frequency_penalty=parameters.frequency_penalty or 0.0,
            presence_penalty=parameters.presence_penalty or 0.0,
            logit_bias=_bias(parameters),
            watermark_gamma=self._limits.watermark_gamma if parameters.watermark else 0.0,
            watermark_delta=self._limits.watermark_delta if parameters.watermark else 0.0,
            seed=seed,
        )


def _check_sampling(parameters: GenerateParameters) -> None:
    """Rules 1 to 8 of spec/http-api.md section 5. `top_p` and `typical_p` of 1.0 are "off" (decision D7)."""
    knobs = (parameters.temperature, parameters.top_k, parameters.top_p, parameters.typical_p, parameters.min_p)
    sampling = parameters.do_sample or any(knob is not None for knob in knobs)
    penalties = {
        "frequency_penalty": parameters.frequency_penalty,
        "presence_penalty": parameters.presence_penalty,  # not in TGI's list: it had none
    }
    if (parameters.best_of or 1) > 1 and not sampling:
        raise ValidationError("you must use sampling when `best_of` is > 1")
    for name, value in {
        "temperature": parameters.temperature,
        "repetition_penalty": parameters.repetition_penalty,
    }.items():
        if value is not None and value <= 0.0:
            raise ValidationError(f"`{name}` must be strictly positive")
    for name, value in penalties.items():
        if value is not None and not -2.0 <= value <= 2.0:
            raise ValidationError(f"`{name}` must be >= -2.0 and <= 2.0")
    for name, value in {"top_p": parameters.top_p, "typical_p": parameters.typical_p}.items():
        if value is not None and not 0.0 < value <= 1.0:
            raise ValidationError(f"`{name}` must be > 0.0 and < 1.0")
    if parameters.top_k is not None and parameters.top_k <= 0:
        raise ValidationError("`top_k` must be strictly positive")
    if parameters.max_new_tokens == 0:
        raise ValidationError("`max_new_tokens` must be strictly positive")


def _refuse_missing_features(parameters: GenerateParameters) -> None:
    if parameters.adapter_id is not None:
        raise ValidationError("`adapter_id` is not supported: no adapter is loaded")


def _stops(parameters: GenerateParameters) -> tuple[str, ...]:
    return tuple(parameters.stop if parameters.stop is not None else parameters.stop_sequences or ())


def _bias(parameters: GenerateParameters) -> dict[int, float]:
    if not isinstance(parameters.logit_bias, dict):
        return {}
    try:
        return {_token_id(key): value for key, value in parameters.logit_bias.items()}
    except ValueError:
        raise ValidationError("`logit_bias` keys must be token ids") from None


def _token_id(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 10):
        raise ValueError(key)
    return int(key)
