"""`/generate`, `/generate_stream` and `/`, byte for byte."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.server.serving import EOS, answering, byte_level, serve
from tgi.config import Limits
from tgi.engine.client import Token
from tgi.engine.messages import EngineRequest
from tgi.errors import GenerationError

HEADERS = ("x-compute-type", "x-compute-characters", "x-compute-time", "x-total-time", "x-validation-time",
           "x-queue-time", "x-inference-time", "x-time-per-token", "x-prompt-tokens", "x-generated-tokens")  # fmt: skip

TAIL = b',"generated_text":null,"details":null}\n\n'
STREAM = (
    b'data: {"index":1,"token":{"id":72,"text":"H","logprob":-0.5,"special":false}' + TAIL + b'data: {"index":2,'
    b'"token":{"id":195,"text":"","logprob":-0.5,"special":false}' + TAIL + b'data: {"index":3,'
    b'"token":{"id":169,"text":"\xc3\xa9","logprob":-0.5,"special":false}' + TAIL + b'data: {"index":4,'
    b'"token":{"id":257,"text":"</s>","logprob":-0.5,"special":true},"generated_text":"H\xc3\xa9","details":'
)


def body(inputs: str = "hello", **parameters: Any) -> dict[str, Any]:
    return {"inputs": inputs, "parameters": parameters}


async def test_an_answer_is_one_object() -> None:
    async with serve(answering("Hé")) as server:
        answer = await server.post("/generate", body())
    assert (answer.status, answer.body) == (200, b'{"generated_text":"H\xc3\xa9"}')
    assert answer.headers["content-type"] == "application/json"


async def test_details_list_every_token() -> None:
    async with serve(answering("ab")) as server:
        answer = await server.post("/generate", body("hé", details=True, decoder_input_details=True, top_n_tokens=1))
    assert answer.body == (
        b'{"generated_text":"ab","details":{"finish_reason":"eos_token","generated_tokens":3,"seed":null,"prefill":'
        b'[{"id":104,"text":"h","logprob":null},{"id":195,"text":"\xef\xbf\xbd","logprob":-0.25},'
        b'{"id":169,"text":"\xef\xbf\xbd","logprob":-0.25}],"tokens":'
        b'[{"id":97,"text":"a","logprob":-0.5,"special":false},{"id":98,"text":"b","logprob":-0.5,"special":false},'
        b'{"id":257,"text":"</s>","logprob":-0.5,"special":true}],"top_tokens":'
        b'[[{"id":97,"text":"a","logprob":-1.0,"special":false}],[{"id":98,"text":"b","logprob":-1.0,"special":false}],'
        b'[{"id":257,"text":"</s>","logprob":-1.0,"special":true}]]}}'
    )


async def test_prompt_details_alone_bring_the_details() -> None:
    async with serve(answering("a")) as server:
        details = (await server.post("/generate", body("xyz", decoder_input_details=True, truncate=2))).json["details"]
        assert [token["text"] for token in details["prefill"]] == ["y", "z"]
        assert (await server.post("/generate", body(details=True))).json["details"]["prefill"] == []


async def test_headers_tell_what_it_took() -> None:
    async with serve(answering("ab")) as server:
        headers = (await server.post("/generate", body("hé"))).headers
    assert all(headers[name].isdigit() for name in HEADERS[3:])
    assert float(headers["x-compute-time"]) > 0
    assert (headers["x-compute-characters"], headers["x-prompt-tokens"], headers["x-generated-tokens"]) == (
        "2",
        "3",
        "3",
    )
    assert headers["x-compute-type"] == "gpu+optimized"


async def test_a_stream_is_one_event_a_token() -> None:
    async with serve(answering("Hé")) as server:
        plain = await server.post("/generate_stream", body())
        detailed = await server.post("/generate_stream", body(details=True))
    assert plain.body == STREAM + b"null}\n\n"
    assert detailed.body == STREAM + (
        b'{"finish_reason":"eos_token","generated_tokens":4,"seed":null,"input_length":5}}\n\n'
    )
    headers = {name: plain.headers.get(name) for name in ("content-type", "cache-control", "x-accel-buffering")}
    assert headers == {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}
    assert plain.headers["x-compute-characters"] == "5"
    assert "x-total-time" not in plain.headers


async def test_a_stream_lists_top_tokens_when_asked() -> None:
    async with serve(answering("a")) as server:
        events = (await server.post("/generate_stream", body(top_n_tokens=2))).events
    assert list(events[0]) == ["index", "token", "top_tokens", "generated_text", "details"]
    assert [token["id"] for token in events[0]["top_tokens"]] == [97, 98]


async def test_the_root_answers_with_an_array_or_a_stream() -> None:
    async with serve(answering("Hé")) as server:
        array = await server.post("/", body(return_full_text=False))
        stream = await server.post("/", body(return_full_text=False) | {"stream": True})
        ignored = await server.post("/generate", body() | {"stream": True})
    assert array.body == b'[{"generated_text":"H\xc3\xa9"}]'
    assert stream.body == STREAM + b"null}\n\n"
    assert ignored.body == b'{"generated_text":"H\xc3\xa9"}'


@pytest.mark.parametrize(
    ("path", "tag", "asked", "expected"),
    [
        ("/", None, None, "hello!"), ("/", "text-generation", None, "hello!"), ("/", "image-text-to-text", None, "!"),
        ("/", None, False, "!"), ("/", "image-text-to-text", True, "hello!"), ("/generate", None, None, "!"),
        ("/generate", None, True, "hello!"),
    ],
)  # fmt: skip
async def test_who_gets_the_prompt_back(path: str, tag: str | None, asked: bool | None, expected: str) -> None:
    async with serve(answering("!"), pipeline_tag=tag) as server:
        answer = (await server.post(path, body(return_full_text=asked, details=True))).json
        streamed = (await server.post("/", body(return_full_text=asked) | {"stream": True})).events
    assert (answer[0] if isinstance(answer, list) else answer)["generated_text"] == expected
    if path == "/":
        assert streamed[-1]["generated_text"] == expected
        assert streamed[0]["token"]["text"] == "!"


async def test_without_parameters_tgi_samples() -> None:
    async with serve(answering("a")) as server:
        for request in ({"inputs": "x"}, {"inputs": "x", "parameters": None}, {"inputs": "x", "parameters": {}}):
            await server.post("/generate", request)
        sampled = [request.sampling.do_sample for request in server.supervisor.requests]
    assert sampled == [True, True, False]


@pytest.mark.parametrize(
    ("answer", "parameters", "reason", "count"),
    [
        ("abcdef", {"max_new_tokens": 3}, "length", 3),
        ("ab", {}, "eos_token", 3),
        ("ab", {"max_new_tokens": 3}, "length", 3),  # end of sequence on the last allowed token
        ("abcdef", {"stop": ["cd"]}, "stop_sequence", 4),
        ("abcdef", {"stop": ["cd"], "max_new_tokens": 4}, "length", 4),
    ],
)
async def test_finish_reasons(answer: str, parameters: dict[str, Any], reason: str, count: int) -> None:
    async with serve(answering(answer)) as server:
        result = (await server.post("/generate", body(details=True, **parameters))).json
        last = (await server.post("/generate_stream", body(details=True, **parameters))).events[-1]
    assert (result["details"]["finish_reason"], result["details"]["generated_tokens"]) == (reason, count)
    assert (last["details"]["finish_reason"], last["generated_text"]) == (reason, result["generated_text"])


async def test_a_stop_sequence_is_kept_and_frees_the_engine() -> None:
    async with serve(answering("abcdef")) as server:
        assert (await server.post("/generate", body(stop=["cd"]))).json == {"generated_text": "abcd"}
        assert server.supervisor.aborted == [server.supervisor.requests[0].id]


@pytest.mark.parametrize("better", [0, 1])
async def test_the_sequence_with_the_best_mean_wins(better: int) -> None:
    async with serve(lambda request: b"xy") as server:
        make = server.supervisor._token

        def token(request: EngineRequest, index: int, token_id: int) -> Token:
            number = request.id - 1
            made = make(request, index, token_id + number)
            return msgspec.structs.replace(made, logprob=-1.0 if number == better else -2.0 + index)

        server.supervisor._token = token  # type: ignore[method-assign]
        answer = await server.post("/generate", body(best_of=2, do_sample=True, details=True, max_new_tokens=2))
    assert answer.json["generated_text"] == ["xy", "yz"][better]
    assert answer.json["details"]["best_of_sequences"][0]["generated_text"] == ["yz", "xy"][better]


async def test_the_first_of_equal_sequences_wins() -> None:
    async with serve(answering("ab")) as server:
        answer = (await server.post("/generate", body(best_of=2, do_sample=True, details=True, max_new_tokens=2))).json
        plain = await server.post("/generate", body(best_of=0, details=True, max_new_tokens=2))
        seeds = [request.sampling.seed for request in server.supervisor.requests[:2]]
        assert await server.metric("tgi_request_success") == 2
    details = answer["details"]
    assert [details["seed"], details["best_of_sequences"][0]["seed"]] == seeds
    assert list(details["best_of_sequences"][0]) == ["generated_text", "finish_reason", "generated_tokens", "seed",
                                                     "prefill", "tokens"]  # fmt: skip
    assert "best_of_sequences" not in plain.json["details"]


async def test_one_sequence_scores_the_prompt_for_all() -> None:
    async with serve(answering("xy")) as server:
        asked = body(best_of=2, do_sample=True, decoder_input_details=True, max_new_tokens=2)
        details = (await server.post("/generate", asked)).json["details"]
        scored = [request.prompt_logprobs for request in server.supervisor.requests]
    assert scored == [True, False]
    assert len(details["prefill"]) > 1
    assert details["best_of_sequences"][0]["prefill"] == details["prefill"]


@pytest.mark.parametrize(
    ("request_body", "message"),
    [
        (body(best_of=3, do_sample=True), "`best_of` must be > 0 and <= 2. Given: 3"),
        (body(temperature=0), "`temperature` must be strictly positive"),
        (body(""), "`inputs` cannot be empty"),
    ],
)
async def test_a_refused_request(request_body: dict[str, Any], message: str) -> None:
    async with serve() as server:
        plain = await server.post("/generate", request_body)
        assert await server.metric('tgi_request_failure{err="validation"}') == 1
    assert plain.status == 422
    assert (
        plain.body
        == json.dumps(
            {"error": f"Input validation error: {message}", "error_type": "validation"}, separators=(",", ":")
        ).encode()
    )


@pytest.mark.parametrize("path", ["/generate_stream", "/"])
@pytest.mark.parametrize(
    ("request_body", "message"),
    [
        (body(best_of=2, decoder_input_details=True), "`best_of` != 1 is not supported when streaming tokens"),
        (body(decoder_input_details=True), "`decoder_input_details` == true is not supported when streaming tokens"),
        (body(""), "`inputs` cannot be empty"),
    ],
)
async def test_a_refused_stream_says_so_inside(path: str, request_body: dict[str, Any], message: str) -> None:
    async with serve() as server:
        answer = await server.post(path, request_body | {"stream": True})
        assert await server.metric('tgi_request_failure{err="validation"}') == 1
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
    assert answer.body == (
        b'data: {"error":"Input validation error: %s","error_type":"validation"}\n\n' % message.encode()
    )


async def test_overload_is_told_in_the_form_of_the_route() -> None:
    async with serve(limits=Limits(max_concurrent_requests=1)) as server:
        with server.services.inference.admit():
            plain = await server.post("/generate", body())
            stream = await server.post("/generate_stream", body())
        assert await server.metric('tgi_request_failure{err="overloaded"}') == 2
    error = b'{"error":"Model is overloaded","error_type":"overloaded"}'
    assert (plain.status, plain.body) == (429, error)
    assert (stream.status, stream.body) == (200, b"data: " + error + b"\n\n")
    for answer in (plain, stream):
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert 1000 <= int(answer.headers["retry-after-ms"]) <= 60_000


async def test_an_engine_failure_ends_the_request_only() -> None:
    async with serve(answering("ab", GenerationError("out of memory"))) as server:
        plain = await server.post("/generate", body())
        stream = await server.post("/generate_stream", body())
        assert await server.metric('tgi_request_failure{err="generation"}') == 2
    error = b'{"error":"Request failed during generation: out of memory","error_type":"generation"}'
    assert (plain.status, plain.body) == (424, error)
    assert stream.body.endswith(b'"generated_text":null,"details":null}\n\ndata: ' + error + b"\n\n")
    assert len(stream.events) == 3


async def test_special_tokens_of_the_prompt_are_added() -> None:
    async with serve(answering("a"), tokenizer=byte_level(add_bos=True)) as server:
        answer = await server.post("/generate", body("x", decoder_input_details=True))
    assert [token["text"] for token in answer.json["details"]["prefill"]] == ["<s>", "x"]
    assert answer.json["details"]["tokens"][-1]["id"] == EOS
