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
    delta: str  # of the answer, exactly as all ids decode: see `Detokenizer`
    stopped: bool  # a stop sequence is complete


class Detokenizer:
    """The text of one sequence.

    Its deltas, concatenated, are what decoding all ids at once gives without special tokens, cut at a stop sequence. So
    a delta leaves out what may become a stop sequence, and bytes of byte-fallback tokens while others may follow: one
    of those that is no UTF-8 makes U+FFFD of all its neighbours. A token's own `text` does not wait for them.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), rule: StopRule = StopRule.AT_END) -> None:
        self._tokenizer = tokenizer
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._run: _ByteRun | None = None
        self._matchers = [_Matcher(stop) for stop in stops]
        self._unwatched = not self._matchers
        self._rule = rule
        # Raw text not yet released, oldest first, and whether it is visible: stop sequences may span special tokens.
        self._held: list[tuple[str, bool]] = []
        self._num_held = 0  # characters

    def push(self, token_id: int, *, last: bool = False, ended: bool = False) -> Decoded:
        """Add a token; with `last`, nothing is held back any more, and an unfinished character becomes U+FFFD.

        `ended`: this token ended the sequence. It is left out of the answer where stop sequences are, as a special
        token is everywhere.
        """
        if self._unwatched and self._run is None and not ended and self._tokenizer.is_plain(token_id):
            text = self._characters.decode(self._tokenizer.piece(token_id), last)
            return Decoded(text, text, False)  # nothing is ever held
        special = self._tokenizer.is_special(token_id) or (ended and self._rule is StopRule.STRIP)
        if special:
            return self._special(self._tokenizer.text(token_id), last)
        piece = self._tokenizer.piece(token_id)
        if self._tokenizer.is_byte(token_id):
            return self._byte(piece, last)
        if self._run is not None and not piece and not last:
            return Decoded("", "", False)  # an unknown token parts no bytes
        unfinished, pieces = self._end_run()
        own = self._characters.decode(piece, last)
        return Decoded(unfinished + own, *self._shown(*self._follow([*pieces, (own, True)]), last))

    def _special(self, text: str, last: bool) -> Decoded:
        if self._run is not None and not last:
            self._run.parts.append(text)
            return Decoded(text, *self._expected([(text, False)]))
        pieces = self._end_run()[1]
        unfinished = self._characters.decode(b"", True) if last else ""
        return Decoded(text, *self._shown(*self._follow([*pieces, (unfinished, True), (text, False)]), last))

    def _byte(self, piece: bytes, last: bool) -> Decoded:
        if self._run is None:
            self._run = _ByteRun([matcher.matched for matcher in self._matchers], len(self._held), self._num_held)
        text = self._run.add(piece)
        if not last:
            return Decoded(text, *self._expected([(text, True)] if self._run.valid else []))
        unfinished, pieces = self._end_run()
        return Decoded(text + unfinished, *self._shown(*self._follow(pieces or [(text, True)]), last))

    def _expected(self, pieces: Sequence[tuple[str, bool]]) -> tuple[str, bool]:
        """Follow the stop sequences through text that holds if the run of bytes ends here; shown only if one does."""
        run = self._run
        assert run is not None
        kept, stopped = self._follow(pieces)
        if kept is not None and run.kept is None and self._rule is not StopRule.AT_END:
            run.kept = kept
        if not run.complete or not (stopped or run.kept is not None):
            return "", False
        return self._shown(kept if run.kept is None else run.kept, True, False)

    def _end_run(self) -> tuple[str, list[tuple[str, bool]]]:
        """No byte follows. Returns: what is still to be shown of an incomplete character, and what to follow again."""
        run, self._run = self._run, None
        if run is None or run.complete:
            return "", []
        for matcher, matched in zip(self._matchers, run.matched, strict=True):
            matcher.matched = matched
        del self._held[run.num_parts :]
        self._num_held = run.num_held
        parts = [("\ufffd" * len(part), True) if isinstance(part, bytes) else (part, False) for part in run.parts]
        return "\ufffd" * run.waiting, parts

    def _follow(self, pieces: Sequence[tuple[str, bool]]) -> tuple[int | None, bool]:
        """Hold text, and follow the stop sequences through it.

        Returns: how much of all that is held is to be shown because one is complete, and whether one is.
        """
        kept = None
        for text, visible in pieces:
            if text:
                kept = None
                self._held.append((text, visible))
            for character in text:
                self._num_held += 1
                complete = max((matcher.advance(character) for matcher in self._matchers), default=0)
                kept = self._num_held - (complete if self._rule is StopRule.STRIP else 0) if complete else None
                if complete and self._rule is not StopRule.AT_END:
                    return kept, True
        return kept, kept is not None

    def _shown(self, kept: int | None, stopped: bool, last: bool) -> tuple[str, bool]:
        """What of the held text is shown, and whether a stop sequence ends it."""
        if kept is not None and self._rule is not StopRule.AT_END:
            released = self._release(kept)
            self._held.clear()
            return released, True
        waiting = 0 if last or self._rule is StopRule.AT_END else max((m.matched for m in self._matchers), default=0)
        return self._release(self._num_held - waiting), stopped

    def _release(self, count: int) -> str:
        """Take `count` characters from the front of what is held; the visible ones of them."""
        released = []
        self._num_held -= count
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

    `matched`, `num_parts` and `num_held` are the detokenizer's state before the run.
    """

    def __init__(self, matched: Sequence[int], num_parts: int, num_held: int) -> None:
        self.matched, self.num_parts, self.num_held = matched, num_parts, num_held
        self.parts: list[bytes | str] = []  # bytes, and the special tokens between them
        self.kept: int | None = None  # characters to show, where a stop sequence was complete amid a character
        self.waiting = 0  # bytes of the character that is not complete
        self.valid = True  # so far
        self._characters = codecs.getincrementaldecoder("utf-8")("strict")

    @property
    def complete(self) -> bool:
        """Whether the bytes so far are whole characters."""
        return self.valid and not self.waiting

    def add(self, byte: bytes) -> str:
        """The text that one more byte completes."""
        self.parts.append(byte)
        self.waiting += 1
        if self.valid:
            try:
                character = self._characters.decode(byte)
            except UnicodeDecodeError:
                self.valid = False
            else:
                self.waiting -= self.waiting if character else 0
                return character
        count, self.waiting = self.waiting, 0
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
