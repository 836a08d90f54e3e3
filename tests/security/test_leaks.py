"""V23, V32 and V33: what clients send is not repeated, written down or counted."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from tests.security.harmless import LEAK, refused
from tests.server.serving import answering, serve
from tgi.config import Http
from tgi.errors import GenerationError

MARK = "SECRET7MARK"


async def test_errors_of_the_engine_are_told_in_our_words() -> None:
    async with serve(lambda request: [GenerationError("the engine crashed on this request")]) as server:
        refused(await server.post("/generate", {"inputs": "x"}))
        refused(await server.post("/v1/chat/completions", {"messages": []}))
        event = (await server.post("/generate_stream", {"inputs": "x"})).events[-1]
    assert event["error_type"] == "generation"


async def test_a_bug_tells_nothing_of_the_machine() -> None:
    def broken(request: Any) -> list[int]:
        raise RuntimeError("/usr/lib/x.py: object at 0x7f1234567890")

    async with serve() as server:
        server.supervisor.submit = broken  # type: ignore[assignment,method-assign]
        for path, body in (("/generate", {"inputs": "x"}), ("/v1/completions", {"prompt": "x"})):
            answer = await server.post(path, body)
            assert (answer.status, LEAK.search(answer.body)) == (500, None)


SENT: list[tuple[str, Any]] = [
    ("/generate", {"inputs": MARK}),
    ("/generate", {"inputs": MARK, "parameters": {"stop": [MARK], "seed": 7, "do_sample": True}}),
    ("/generate", {"inputs": MARK, "parameters": {"temperature": -1, "adapter_id": MARK}}),
    ("/generate", {"inputs": MARK, "parameters": {"grammar": {"type": "regex", "value": f"({MARK}"}}}),
    ("/generate", {"inputs": "x", "parameters": {MARK: MARK}}),
    ("/generate_stream", {"inputs": MARK, "parameters": {"best_of": 2}}),
    ("/v1/chat/completions", {"messages": [{"role": MARK, "content": MARK}], "user": MARK, "model": MARK}),
    ("/v1/chat/completions", {"messages": [{"role": "u"}], "response_format": {"type": MARK}}),
    ("/v1/chat/completions", {"messages": [], "chat_template": MARK, "chat_template_kwargs": {"x": MARK}}),
    ("/v1/completions", {"prompt": [MARK] * 9, "suffix": MARK}),
    ("/vertex", {"instances": [{"inputs": MARK}, {"inputs": ""}]}),
    ("/invocations", {"prompt": MARK, "stop": MARK}),
    ("/tokenize", {"inputs": MARK}),
    ("/detokenize", {"tokens": MARK}),
    (f"/{MARK}", {MARK: MARK}),
    ("/generate", f'{{"inputs":{MARK}'.encode()),
]


async def test_nothing_a_client_says_is_in_logs_or_metrics(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    headers = {"authorization": f"Bearer {MARK}", f"x-{MARK}": MARK, "cookie": MARK, "user-agent": MARK}
    key = Http(hostname="127.0.0.1", port=0, api_key=MARK)
    async with serve(answering(MARK), http=key) as server:
        for path, body in SENT:
            await server.post(path, body, **headers)
            await server.post(path, body, authorization=f"Bearer {MARK}x")
        shown = [(await server.get(page)).body.decode() for page in ("/metrics", "/info", "/v1/models", "/health")]
    assert caplog.records
    written = [str(record.__dict__) for record in caplog.records if record.name.startswith("tgi")]
    for text in (caplog.text, *written, *shown):
        assert MARK not in text


async def test_a_log_line_stays_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serve(answering("a")) as server:
        await server.post("/generate", {"inputs": "x", "parameters": {"adapter_id": "a\nERROR forged"}})
        await server.post("/generate", {"inputs": "x", "parameters": {"stop": ["\x1b[2J\r\nforged"]}})
    assert "forged" not in caplog.text


async def test_clients_cannot_make_series() -> None:
    async with serve(answering("a")) as server:
        await server.post("/generate", {"inputs": "x"})
        await server.post("/v1/chat/completions", {"messages": []})
        before = series((await server.get("/metrics")).body)
        for number in range(200):
            await server.get(f"/random/{number}", **{"x-request-id": f"id-{number}"})
            await server.request(f"METHOD{number}", "/generate")
            await server.post(
                "/v1/chat/completions", {"messages": [], "model": f"model-{number}", "user": f"u{number}"}
            )
            await server.post("/generate", {"inputs": "x", "parameters": {"adapter_id": f"a-{number}"}})
        after = series((await server.get("/metrics")).body)
    assert after == before
    assert len(after) <= 3 * 2_000


def series(exposition: bytes) -> set[str]:
    """The names of all series, labels included."""
    return set(re.findall(r"^([^#\s]\S*) ", exposition.decode(), flags=re.MULTILINE))
