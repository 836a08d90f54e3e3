"""Token ids to text while they are generated: whole characters only, and stop sequences wherever they end.

The text of a sequence is the same however it arrives: concatenating what `push` gives equals decoding all ids at once.
Every step costs the same, however long the sequence is.
"""

from __future__ import annotations

import codecs
import enum
from collections.abc import Sequence
from typing import NamedTuple

from tgi.server.tokenizer import Tokenizer


class StopRule(enum.Enum):
    """What becomes of a stop sequence (spec/http-api.md section 7 and decision D4)."""

    AT_END = "kept; it counts only when the text ends with it after a token"  # TGI's routes
    STRIP = "left out, with all that follows it"  # OpenAI's routes
    INCLUDE = "kept, without what follows it"  # OpenAI's routes, when asked


class Decoded(NamedTuple):
    """What one token added."""

    text: str  # of the token itself, special or not; characters appear with the token that completes them
    delta: str  # of the answer: special tokens are left out, and what may become a stop sequence is held back
    stopped: bool  # a stop sequence is complete


class Detokenizer:
    """The text of one sequence."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), rule: StopRule = StopRule.AT_END) -> None:
        self._tokenizer = tokenizer
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._run = _ByteRun()
        self._matchers = [_Matcher(stop) for stop in stops]
        self._rule = rule
        # Raw text not yet released, oldest first, and whether it is visible: stop sequences may span special tokens.
        self._held: list[tuple[str, bool]] = []

    def push(self, token_id: int, *, last: bool = False, ended: bool = False) -> Decoded:
        """Add a token; with `last`, nothing is held back any more, and an unfinished character becomes U+FFFD.

        `ended`: this token ended the sequence. It is left out of the answer where stop sequences are, as a special
        token is everywhere.
        """
        special = self._tokenizer.is_special(token_id) or (ended and self._rule is StopRule.STRIP)
        if special:
            text = self._tokenizer.text(token_id)
            unfinished = self._run.end() + self._characters.decode(b"", True) if last else ""
            pieces = [(unfinished, True), (text, False)] if unfinished else [(text, False)]
        else:
            text = self._text(token_id, last)
            pieces = [(text, True)]
        if not self._matchers:
            return Decoded(text, "".join(part for part, visible in pieces if visible), False)
        delta, stopped = "", False
        for part, visible in pieces:
            released, stopped = self._match(part, visible)
            delta += released
            if stopped and self._rule is not StopRule.AT_END:
                return Decoded(text, delta, True)
        if last:
            delta += self._release(sum(len(part) for part, _ in self._held))
        return Decoded(text, delta, stopped)

    def _text(self, token_id: int, last: bool) -> str:
        """What an ordinary token adds, with the characters that it completes."""
        piece = self._tokenizer.piece(token_id)
        if self._tokenizer.is_byte(token_id):
            return self._run.add(piece[0]) + (self._run.end() if last else "")
        ended = self._run.end() if piece or last else ""  # an unknown token parts no bytes
        return ended + self._characters.decode(piece, last)

    def _match(self, text: str, visible: bool) -> tuple[str, bool]:
        """Follow the stop sequences through `text`: what may be shown now, and whether one is complete."""
        if self._rule is StopRule.AT_END:
            complete = 0
            for character in text:
                complete = max(matcher.advance(character) for matcher in self._matchers)
            return (text if visible else ""), complete > 0
        self._held.append((text, visible))
        held = sum(len(part) for part, _ in self._held)
        for position, character in enumerate(text, start=1):
            complete = max(matcher.advance(character) for matcher in self._matchers)
            if complete:
                kept = held - (len(text) - position) - (complete if self._rule is StopRule.STRIP else 0)
                released = self._release(kept)
                self._held.clear()
                return released, True
        return self._release(held - max(matcher.matched for matcher in self._matchers)), False

    def _release(self, count: int) -> str:
        """Take `count` characters from the front of what is held; the visible ones of them."""
        released = []
        while count > 0:
            part, visible = self._held.pop(0)
            if len(part) > count:
                self._held.insert(0, (part[count:], visible))
                part = part[:count]
            count -= len(part)
            if visible:
                released.append(part)
        return "".join(released)


class _ByteRun:
    """Byte tokens in a row, as the `ByteFallback` decoder reads them: UTF-8, or else one U+FFFD for every byte.

    A character is shown with the token that completes it, as TGI does; it stays when a later byte is no UTF-8, where
    decoding everything at once would take it back.
    """

    def __init__(self) -> None:
        self._characters = codecs.getincrementaldecoder("utf-8")("strict")
        self._waiting = 0  # bytes of the character that is not complete
        self._broken = False

    def add(self, byte: int) -> str:
        """The text that one more byte completes."""
        self._waiting += 1
        if not self._broken:
            try:
                character = self._characters.decode(bytes([byte]))
            except UnicodeDecodeError:
                self._broken = True
            else:
                self._waiting -= self._waiting if character else 0
                return character
        return self._replaced()

    def end(self) -> str:
        """What is shown of an incomplete character when another token follows, or none."""
        self._broken = False
        self._characters.reset()
        return self._replaced()

    def _replaced(self) -> str:
        count, self._waiting = self._waiting, 0
        return "\ufffd" * count


class _Matcher:
    """Finds one stop sequence in a text that comes character by character.

    Source: Knuth, Morris, Pratt (1977). No list of near misses makes a character cost more than a few steps.
    """

    def __init__(self, stop: str) -> None:
        self.matched = 0  # characters of the stop sequence that the text ends with
        self._stop = stop
        self._fallback = [0]  # [n-1]: the longest proper prefix of stop[:n] that is also its suffix
        for character in stop[1:]:
            length = self._fallback[-1]
            while length and stop[length] != character:
                length = self._fallback[length - 1]
            self._fallback.append(length + (stop[length] == character))

    def advance(self, character: str) -> int:
        """The length of the stop sequence if this character completes it, else 0."""
        matched = self.matched
        while matched and self._stop[matched] != character:
            matched = self._fallback[matched - 1]
        if self._stop[matched] == character:
            matched += 1
        complete = matched == len(self._stop)
        self.matched = self._fallback[matched - 1] if complete else matched
        return matched if complete else 0
