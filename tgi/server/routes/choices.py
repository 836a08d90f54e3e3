"""One answer of a chat as chunks, while it is generated, and as a message, once it is complete.

Without tools, a chunk is a token. With them, tokens that could begin a call wait until it is told, and the last part of
the last call waits for the finish reason: every chunk of a call carries some of it (spec/http-api.md section 10.6).
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET

from tgi.server.inference import Piece
from tgi.server.responses import (
    AssistantDelta,
    AssistantMessage,
    CalledFunction,
    ChatChoice,
    ChatChunkChoice,
    ChatLogprob,
    ChatLogprobs,
    FunctionDelta,
    ToolCall,
    ToolCallDelta,
    TopLogprob,
)
from tgi.server.routes.dialect import Dialect
from tgi.server.routes.openai import FINISH
from tgi.server.tokenizer import Tokenizer
from tgi.server.tool_formats import CallPart, compact
from tgi.server.tools import ToolPlan

ASSISTANT = "assistant"


class Choice:
    """Turns the tokens of one sequence into the chunks of one answer."""

    def __init__(
        self, index: int, plan: ToolPlan | None, tokenizer: Tokenizer, dialect: Dialect, *, logprobs: bool
    ) -> None:
        self._index = index
        self._once = dialect.once
        self._call_ids = dialect.call_ids()
        self._call_id = ""  # of the call that is being told
        self._told_role = False
        self._plan = plan
        self._reader = plan.reader() if plan is not None else None
        self._tokenizer = tokenizer
        self._wants_logprobs = logprobs
        self._logprobs: list[ChatLogprob] = []  # of tokens that no chunk has shown
        self._held: ChatChunkChoice | None = None  # the newest part of a call

    def push(self, piece: Piece) -> list[ChatChunkChoice]:
        """Add a token. Returns: the chunks that are complete."""
        chunks = self._push(piece)
        for chunk in chunks if self._once else ():
            if self._told_role:
                chunk.delta.role = UNSET
            self._told_role = True
        return chunks

    def _push(self, piece: Piece) -> list[ChatChunkChoice]:
        if self._wants_logprobs:
            top = [TopLogprob(self._tokenizer.text(token_id), logprob) for token_id, logprob in piece.top]
            self._logprobs.append(ChatLogprob(piece.text, piece.logprob, top))
        finish = FINISH[piece.finish] if piece.finish is not None else None
        if self._reader is None:
            return [self._chunk(AssistantDelta(ASSISTANT, piece.delta), finish)]
        chunks: list[ChatChunkChoice] = []
        for part in self._read(piece):
            if isinstance(part, str):
                chunks.append(self._chunk(AssistantDelta(ASSISTANT, part), None))
            else:
                if self._held is not None:
                    chunks.append(self._held)
                self._held = self._chunk(self._call_delta(part), None)
        if finish is not None:
            chunks.append(self._last(finish))
        return chunks

    def _read(self, piece: Piece) -> list[str | CallPart]:
        assert self._reader is not None
        assert self._plan is not None
        parts = self._reader.feed(piece.delta)
        if piece.special and self._plan.row.uses(piece.text):
            parts += self._reader.feed(piece.text)
        return parts

    def _last(self, finish: str) -> ChatChunkChoice:
        assert self._reader is not None
        if self._held is None:
            return self._chunk(AssistantDelta(ASSISTANT, self._reader.finish()), finish)
        chunk, self._held = self._held, None
        chunk.finish_reason = "tool_calls" if finish == "stop" else finish
        if chunk.logprobs is not None:
            chunk.logprobs.content += self._logprobs
        return chunk

    def _call_delta(self, part: CallPart) -> AssistantDelta:
        call = ToolCallDelta(index=part.index, function=FunctionDelta(part.name, part.arguments))
        if part.name is not None:
            call.id = self._call_id = next(self._call_ids)
        elif not self._once:
            call.id = self._call_id
        return AssistantDelta(ASSISTANT, tool_calls=[call])

    def _chunk(self, delta: AssistantDelta, finish: str | None) -> ChatChunkChoice:
        logprobs = ChatLogprobs(self._logprobs) if self._wants_logprobs else None
        self._logprobs = []
        return ChatChunkChoice(self._index, delta, logprobs, finish)

    def whole(self, pieces: Sequence[Piece]) -> ChatChoice:
        """The complete answer of these tokens, all of them."""
        texts: list[str] = []
        calls: list[ToolCall] = []
        shown: list[ChatLogprob] = []
        finish = "length"
        for piece in pieces:
            for chunk in self.push(piece):
                delta = chunk.delta
                texts.append(delta.content or "")
                for call in delta.tool_calls or []:
                    if call.function.name is not None:
                        calls.append(ToolCall(call.id or "", call.type, CalledFunction(None, call.function.name, "")))
                    calls[-1].function.arguments += call.function.arguments
                shown += chunk.logprobs.content if chunk.logprobs is not None else []
                finish = chunk.finish_reason or finish
        message = AssistantMessage(ASSISTANT)
        if calls:
            message.tool_calls = calls
            for made in calls:
                made.function.arguments = compact(made.function.arguments)
        if any(texts) or not calls:
            message.content = "".join(texts)
        return ChatChoice(self._index, message, ChatLogprobs(shown) if self._wants_logprobs else None, finish)
