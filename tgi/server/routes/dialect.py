"""Which of two dialects a chat is answered in: TGI's clients want in every chunk what OpenAI's join to one text."""

from __future__ import annotations

import itertools
import secrets
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aiohttp import web

from tgi.server.schemas import Message

_ID_CHARACTERS = string.ascii_letters + string.digits
_LONGEST_NUMBER = 18  # digits of a call's id that is counted on from: what fits 64 bits


@dataclass(frozen=True, slots=True)
class Dialect:
    """TGI's words, or those of OpenAI's SDKs.

    `once`: `role`, and the `id` of a call, are only in the first chunk that they belong to, as OpenAI sends them. Its
    SDKs name themselves by the header `X-Stainless-Lang`, and their stream helpers join what is told twice. TGI's
    clients need both in every chunk (spec/http-api.md section 10.6), so they, and all others, get them there.
    `first_call` is the number of the next call, as TGI counts them; None where a call's id is drawn.
    """

    once: bool = False
    first_call: int | None = None

    def call_ids(self) -> Iterator[str]:
        """Ids for the calls of one answer, without end."""
        if self.first_call is None:
            # Nine letters and digits: Mistral's templates refuse anything else.
            return iter(lambda: "".join(secrets.choice(_ID_CHARACTERS) for _ in range(9)), "")
        return map(str, itertools.count(self.first_call))


def dialect(request: web.Request, messages: Sequence[Message], *, numbered: bool) -> Dialect:
    """The dialect of a request's answer; `numbered`: the model's template takes numbers as ids of calls."""
    once = "x-stainless-lang" in request.headers
    return Dialect(once=once, first_call=None if once or not numbered else _next_call(messages))


def _next_call(messages: Sequence[Message]) -> int | None:
    """One more than the highest id of the conversation's calls; None where they are not all numbers."""
    ids = [call.get("id") for message in messages for call in message.tool_calls or []]
    numbers = [int(id) for id in ids if isinstance(id, str) and _is_number(id)]
    return max(numbers, default=-1) + 1 if len(numbers) == len(ids) else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER
