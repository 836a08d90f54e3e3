"""TGI's defects that are not copied: one promise for each row of spec/http-api.md section 17."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.server.serving import BOS, EOS, Server, answering, byte_level, serve
from tgi.config import Http, Limits
from tgi.engine.messages import EngineRequest
from tgi.errors import ConfigError, GenerationError
from tgi.server.ports import reserve

CHAT, COMPLETIONS, NATIVE = "/v1/chat/completions", "/v1/completions", "/generate"
TALK: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {}}}}}
BROKEN = GenerationError("the engine crashed on this request")
KEY = Http(hostname="127.0.0.1", port=0, api_key="Key")


async def sampling_of(server: Server, body: dict[str, Any], path: str = CHAT) -> Any:
    """What the engine is told of the choice of tokens."""
    answer = await server.post(path, body)
    assert answer.status == 200, answer.body
    return server.supervisor.requests[-1].sampling


@pytest.mark.parametrize(
    ("content_type", "body", "status", "begins"),
    [
        ("application/json", b"{", 400, "Failed to parse the request body as JSON: "),
        ("application/json", b"", 400, "Failed to parse the request body as JSON: "),
        ("application/json", b"x" * 1001, 413, "Failed to buffer the request body: length limit exceeded"),
        ("text/plain", b"{}", 415, "Expected request with `Content-Type: application/json`"),
        ("application/json", b"{}", 422, "Failed to deserialize the JSON body into the target type: "),
    ],
)
@pytest.mark.parametrize("path", ["/", NATIVE, "/generate_stream", CHAT, COMPLETIONS, "/tokenize", "/chat_tokenize"])
async def test_fix_1_a_body_that_is_rejected_is_told_in_json(
    path: str, content_type: str, body: bytes, status: int, begins: str
) -> None:
    async with serve(limits=Limits(payload_limit=1000)) as server:
        answer = await server.request("POST", path, data=body, headers={"content-type": content_type})
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert set(answer.json) == {"error", "error_type"}
    assert answer.json["error"].startswith(begins)
    assert answer.json["error_type"] == "validation"


@pytest.mark.parametrize(("path", "body"), [(CHAT, TALK), (COMPLETIONS, {"prompt": "x"})])
async def test_fix_2_a_failure_in_a_stream_has_its_own_status(path: str, body: dict[str, Any]) -> None:
    async with serve(answering("a", BROKEN)) as server:
        answer = await server.post(path, body | {"stream": True})
    message = "Request failed during generation: the engine crashed on this request"
    assert answer.events[-2:] == [{"error": {"message": message, "http_status_code": 424}}, "[DONE]"]


@pytest.mark.parametrize("name", ["top_p", "typical_p"])
async def test_fix_3_one_is_accepted_as_off(name: str) -> None:
    async with serve(answering("a")) as server:
        native = await sampling_of(server, {"inputs": "x", "parameters": {name: 1.0}}, NATIVE)
        assert (native.do_sample, getattr(native, name)) == (False, 1.0)
        for path, body in ((CHAT, TALK), (COMPLETIONS, {"prompt": "x"})):
            assert getattr(await sampling_of(server, body | {name: 1.0}, path), name) == 1.0


@pytest.mark.parametrize("value", [-2.0, 0.0, 0.5, 2.0])
async def test_fix_4_presence_penalty_is_additive_and_zero_is_off(value: float) -> None:
    async with serve(answering("a")) as server:
        for path, body in ((CHAT, TALK), (COMPLETIONS, {"prompt": "x"})):
            sampling = await sampling_of(server, body | {"presence_penalty": value}, path)
            assert (sampling.presence_penalty, sampling.repetition_penalty) == (value, 1.0)


SCHEMA = {"properties": {"a": {"type": "boolean"}}, "required": ["a"]}
ARRAY = {"type": "array", "items": {"$ref": "#/$defs/x"}, "$defs": {"x": {"enum": [1, 2]}}}


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "text"}, {"type": "json_object"}, {"type": "json_object", "value": SCHEMA},
        {"type": "json", "value": SCHEMA}, {"type": "json", "value": json.dumps(SCHEMA)},
        {"type": "json_schema", "value": {"name": "x", "schema": SCHEMA}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": ARRAY}},
        {"type": "json", "value": {"enum": ["a", 1]}}, {"type": "regex", "value": "a+"},
    ],
)  # fmt: skip
async def test_fix_5_every_shape_of_a_response_format_is_understood(response_format: dict[str, Any]) -> None:
    async with serve(answering("a")) as server:
        sampling = await sampling_of(server, TALK | {"response_format": response_format})
    assert bool(sampling.grammar) == (response_format["type"] != "text")


async def test_fix_6_a_model_that_may_call_is_asked_once_and_its_own_usage_is_told() -> None:
    body = TALK | {"tools": [TOOL], "tool_choice": "auto", "logprobs": True, "max_tokens": 50}
    async with serve(answering("No.")) as server:
        answer = (await server.post(CHAT, body)).json
        streamed = (await server.post(CHAT, body | {"stream": True, "stream_options": {"include_usage": True}})).events
        assert len(server.supervisor.requests) == 2
    (choice,) = answer["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("No.", "stop")
    assert [one["token"] for one in choice["logprobs"]["content"]] == ["N", "o", ".", "</s>"]
    assert answer["usage"]["completion_tokens"] == 4
    assert streamed[-2]["usage"] == answer["usage"]


@pytest.mark.parametrize(("path", "body"), [(CHAT, TALK), (COMPLETIONS, {"prompt": "x"})])
async def test_fix_7_an_answer_has_one_name_of_its_own_and_one_time(path: str, body: dict[str, Any]) -> None:
    async with serve(answering("abc")) as server:
        whole = (await server.post(path, body)).json
        streams = [(await server.post(path, body | {"stream": True})).events[:-1] for _ in range(2)]
    named = [{(event["id"], event["created"]) for event in events} for events in streams]
    assert [len(one) for one in named] == [1, 1]
    assert len({whole["id"], *(name for one in named for name, _ in one)}) == 3
    assert whole["id"].startswith("chatcmpl-" if path == CHAT else "cmpl-")


@pytest.mark.parametrize(
    ("text", "fields", "reason"),
    [
        ("abc", {}, "stop"), ("abc", {"max_tokens": 2}, "length"), ("abc", {"stop": ["b"]}, "stop"),
        ('{"name": "f", "parameters": {}}', {"tools": [TOOL], "tool_choice": "required", "max_tokens": 99},
         "tool_calls"),
        ('{"name": "f", "parameters": {}}', {"tools": [TOOL], "tool_choice": "required", "max_tokens": 30}, "length"),
    ],
)  # fmt: skip
async def test_fix_8_finish_reasons_are_openais(text: str, fields: dict[str, Any], reason: str) -> None:
    async with serve(answering(text)) as server:
        whole = (await server.post(CHAT, TALK | fields)).json["choices"][0]
        events = (await server.post(CHAT, TALK | fields | {"stream": True})).events[:-1]
    assert whole["finish_reason"] == reason
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * (len(events) - 1) + [reason]
    if "tools" in fields:
        assert all("tool_calls" in event["choices"][0]["delta"] for event in events)


@pytest.mark.parametrize(("path", "body"), [(CHAT, TALK), (COMPLETIONS, {"prompt": "x"})])
async def test_fix_9_a_stop_sequence_is_left_out_for_openai_and_kept_by_tgi(path: str, body: dict[str, Any]) -> None:
    def text(choice: Any) -> str:
        return str(choice["message"]["content"] if "message" in choice else choice["text"])

    async with serve(answering("abc")) as server:
        stripped = (await server.post(path, body | {"stop": "b"})).json["choices"][0]
        kept = (await server.post(path, body | {"stop": "b", "include_stop_str_in_output": True})).json["choices"][0]
        native = (await server.post(NATIVE, {"inputs": "x", "parameters": {"stop": ["b"]}})).json["generated_text"]
    assert (text(stripped), text(kept), native) == ("a", "ab", "ab")


async def test_fix_10_an_unknown_adapter_is_refused_and_an_unknown_model_is_not() -> None:
    async with serve(answering("a")) as server:
        refused = await server.post(NATIVE, {"inputs": "x", "parameters": {"adapter_id": "mine"}})
        served = await server.post(CHAT, TALK | {"model": "mine"})
    assert (refused.status, refused.json["error_type"]) == (422, "validation")
    assert "`adapter_id`" in refused.json["error"]
    assert (served.status, served.json["model"]) == (200, "mine")


async def test_fix_11_a_bad_grammar_is_refused_and_never_reaches_the_engine() -> None:
    async with serve(answering("a")) as server:
        for grammar in ({"type": "regex", "value": "("}, {"type": "json", "value": {"type": "nonsense"}}):
            refused = await server.post(NATIVE, {"inputs": "x", "parameters": {"grammar": grammar}})
            assert (refused.status, refused.json["error_type"]) == (422, "validation")
            assert refused.json["error"].startswith("Input validation error: grammar is not valid: ")
        assert server.supervisor.requests == []


async def test_fix_12_a_failure_of_one_request_is_not_the_others() -> None:
    def respond(request: EngineRequest) -> list[Any]:
        poison = bytes(np.frombuffer(request.prompt_ids, "<i4").astype(np.uint8)) == b"poison"
        return [ord("a"), BROKEN if poison else EOS]

    async with serve(respond) as server:
        answers = [await server.post(NATIVE, {"inputs": text}) for text in ("x", "poison", "y")]
    assert [answer.status for answer in answers] == [200, 424, 200]
    assert answers[1].json["error_type"] == "generation"


async def test_fix_13_a_prompt_is_scored_for_whoever_asks() -> None:
    body = {"inputs": "abc", "parameters": {"decoder_input_details": True}}
    async with serve(answering("a"), tokenizer=byte_level(add_bos=True)) as server:
        prefill = (await server.post(NATIVE, body)).json["details"]["prefill"]
    assert [(token["id"], token["logprob"]) for token in prefill] == [(BOS, None), *((ord(c), -0.25) for c in "abc")]


async def test_fix_14_health_is_answered_while_the_engine_is_busy() -> None:
    async with serve() as server:
        server.supervisor.hold()
        async with server.session.post(f"{server.url}/generate_stream", json={"inputs": "x"}):
            assert [(await server.get(path)).status for path in ("/health", "/ping", "/")] == [200, 200, 200]


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": "x"}, {"stop": None}, {"logit_bias": {"5": -1.5}}, {"stream_options": None},
        {"max_tokens": 9, "max_completion_tokens": 2}, {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"messages": [{"role": "assistant", "content": "words",
                       "tool_calls": [{"id": "0", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}]},
    ],
)  # fmt: skip
async def test_fix_15_what_openais_clients_send_is_understood(fields: dict[str, Any]) -> None:
    async with serve(answering("abc")) as server:
        answer = await server.post(CHAT, TALK | fields)
        assert answer.status == 200, answer.body
        asked = server.supervisor.requests[-1]
    assert asked.max_new_tokens == fields.get("max_completion_tokens", 5)
    if fields.get("logit_bias"):
        assert asked.sampling.logit_bias == {5: -1.5}


@pytest.mark.parametrize("path", ["/chat_tokenize", "/predict", "/vertex", "/invocations", "/tokenize"])
async def test_fix_16_the_key_is_exact_and_guards_what_tgi_forgot(path: str) -> None:
    http = Http(hostname="127.0.0.1", port=0, api_key="Key", aip_predict_route="/predict", aip_health_route="/healthy")
    body = {"instances": [{"inputs": "x"}], "inputs": "x", "messages": []}
    async with serve(answering("a"), http=http) as server:
        keys = [None, "Bearer key", "Bearer KEY", "Bearer  Key", "bearer Key", "Bearer Key"]
        statuses = [(await server.post(path, body, **({"authorization": key} if key else {}))).status for key in keys]
        assert (await server.get("/healthy")).status == 200
    assert statuses == [401, 401, 401, 401, 200, 200]


@pytest.mark.parametrize(
    ("path", "body", "count"),
    [
        (NATIVE, {"inputs": "x"}, 1), (CHAT, TALK, 1), (CHAT, TALK | {"n": 3}, 1),
        (COMPLETIONS, {"prompt": ["x", "y"]}, 1), ("/invocations", {"inputs": "x"}, 1),
        ("/vertex", {"instances": [{"inputs": "x"}]}, 1),
    ],
)  # fmt: skip
async def test_fix_17_a_request_is_counted_once(path: str, body: dict[str, Any], count: int) -> None:
    async with serve(answering("a")) as server:
        assert (await server.post(path, body)).status == 200
        assert await server.metric("tgi_request_count") == count


def test_fix_18_a_hostname_is_resolved_or_refused_and_never_widened() -> None:
    reservation = reserve("localhost", 0)
    try:
        assert reservation.sock.getsockname()[0] in ("127.0.0.1", "::1")
    finally:
        reservation.close()
    with pytest.raises(ConfigError, match=r"no\.such\.host\.invalid"):
        reserve("no.such.host.invalid", 0)


async def test_fix_19_completions_are_in_order_without_the_text_of_the_end() -> None:
    def respond(request: EngineRequest) -> list[int]:
        return [*(b"long" if request.prompt_ids[0] == ord("a") else b""), EOS]

    async with serve(respond) as server:
        body = {"prompt": ["a", "b"], "max_tokens": 9}
        whole = (await server.post(COMPLETIONS, body)).json["choices"]
        events = (await server.post(COMPLETIONS, body | {"stream": True})).events[:-1]
    assert [(one["index"], one["text"], one["finish_reason"]) for one in whole] == [
        (0, "long", "stop"),
        (1, "", "stop"),
    ]
    last = {event["choices"][0]["index"]: event["choices"][0] for event in events}
    assert [(last[index]["text"], last[index]["finish_reason"]) for index in (0, 1)] == [("", "stop")] * 2


async def test_fix_20_vertex_honours_parameters_and_tells_errors_as_they_are() -> None:
    async with serve(answering("abc")) as server:
        asked = {"inputs": "x", "parameters": {"stop": ["b"], "top_k": 3}}
        assert (await server.post("/vertex", {"instances": [asked]})).json == {"predictions": ["ab"]}
        assert server.supervisor.requests[0].sampling.top_k == 3
        refused = await server.post("/vertex", {"instances": [{"inputs": "x", "parameters": {"top_k": 0}}]})
    assert refused.status == 422
    assert refused.json == {
        "error": "Input validation error: `top_k` must be strictly positive", "error_type": "validation",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {"prompt": "x"}),
        ("/vertex", {"instances": [{"inputs": "x"}]}),
        (CHAT, TALK),
        (NATIVE, {"inputs": "x"}),
    ],
)
async def test_fix_21_nobody_scores_a_prompt_unasked(path: str, body: dict[str, Any]) -> None:
    async with serve(answering("a")) as server:
        assert (await server.post(path, body)).status == 200
        assert [one.prompt_logprobs for one in server.supervisor.requests] == [False]


async def test_fix_22_an_empty_list_of_tools_is_no_tools() -> None:
    async with serve(answering("a")) as server:
        sampling = await sampling_of(server, TALK | {"tools": []})
        assert sampling.grammar == ""
        plain = (await server.post("/chat_tokenize", TALK)).json
        assert (await server.post("/chat_tokenize", TALK | {"tools": []})).json == plain
        refused = await server.post(CHAT, TALK | {"tools": [], "response_format": {"type": "json_object"}})
    assert (refused.status, refused.json["error"]) == (422, "Tool error: Grammar and tools are mutually exclusive")
