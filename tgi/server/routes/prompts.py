"""The prompts of `/v1/completions`: texts or token ids, and what `echo` repeats of them."""

from __future__ import annotations

from dataclasses import dataclass

from tgi.server.detokenizer import Detokenizer, StopRule
from tgi.server.schemas import CompletionRequest, GenerateParameters
from tgi.server.services import Services
from tgi.server.tokenizer import Tokenizer
from tgi.server.validation import Prepared


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt that passed validation."""

    text: str
    prepared: Prepared
    tokens: list[str]  # the text of each token; empty unless the prompt is echoed with log-probabilities
    offsets: list[int]  # the character of `text` where each of them begins


def split(body: CompletionRequest) -> list[str | list[int]]:
    """One text or one list of token ids a prompt."""
    if isinstance(body.prompt, str):
        return [body.prompt]
    if isinstance(body.prompt[0], int):
        return [[part for part in body.prompt if isinstance(part, int)]]
    return [part for part in body.prompt if not isinstance(part, int)]


async def prepare(
    services: Services, given: str | list[int], asked: GenerateParameters, rule: StopRule
) -> Prompt:  # fmt: skip
    """Validate one prompt. Raises: ValidationError."""
    tokenizer, ids = services.tokenizer, None
    if isinstance(given, str):
        text = given
    else:
        ids = given
        services.validator.check_token_ids(ids)
        text = await tokenizer.decode(ids)
    prepared = await services.validator.validate(text, asked, stop_rule=rule, ids=ids)
    if not prepared.prompt_logprobs:
        return Prompt(text, prepared, [], [])
    tokens, offsets = await tokenizer.run(_place, tokenizer, prepared.prompt_tokens(), text)
    return Prompt(text, prepared, tokens, offsets)


def _place(tokenizer: Tokenizer, ids: list[int], text: str) -> tuple[list[str], list[int]]:
    """The text of each token and where it begins.

    Tokens that the text does not show (a BOS the tokenizer put in front) take no room in it, and a leading space that
    only the tokenizer knows of (`▁Hello`) is left away. Where a tokenizer changes its text (lower case, say), offsets
    are as if it had kept the lengths.
    """
    detokenizer = Detokenizer(tokenizer)
    tokens, offsets, position = [], [], 0
    for index, token_id in enumerate(ids):
        token = detokenizer.push(token_id, last=index == len(ids) - 1).text
        shown = text.startswith(token, position)
        if not shown and token.startswith(" ") and text.startswith(token[1:], position):
            token, shown = token[1:], True
        tokens.append(token)
        offsets.append(position)
        if shown or not tokenizer.is_special(token_id):
            position = min(len(text), position + len(token))
    return tokens, offsets
