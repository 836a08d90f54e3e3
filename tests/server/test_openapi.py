"""The description says what the server does, and no route is left out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.server.serving import answering, serve
from tgi.config import Http
from tgi.server.app import routes
from tgi.server.openapi import OPERATIONS, UNDESCRIBED, Route, document
from tgi.server.routes import health

HTTP = Http()
DOCUMENT = json.loads(json.dumps(document(routes(HTTP))))
OPERATIONS_FOUND = [
    (path, method, operation) for path, item in DOCUMENT["paths"].items() for method, operation in item.items()
]


def schema(reference: dict[str, Any]) -> dict[str, Any]:
    """A schema of the document with everything it refers to."""
    return {**reference, "components": DOCUMENT["components"]}


def test_every_route_is_described() -> None:
    described = {(method.upper(), path) for path, method, _ in OPERATIONS_FOUND}
    expected = {
        (route.method, route.path.replace("{model:[\\s\\S]+}", "{model}"))
        for route in routes(HTTP)
        if route.handler not in UNDESCRIBED
    }
    assert described == expected
    assert {route.handler for route in routes(HTTP)} == set(OPERATIONS) | UNDESCRIBED


def test_a_route_without_words_cannot_be_described() -> None:
    async def unknown(request: Any) -> Any:
        raise AssertionError

    with pytest.raises(KeyError):
        document([Route("GET", "/x", unknown, True)])


def test_routes_of_vertex_are_described_where_they_are() -> None:
    paths = document(routes(Http(aip_predict_route="/p", aip_health_route="/h")))["paths"]
    assert paths["/p"]["post"]["summary"] == paths["/vertex"]["post"]["summary"]
    assert list(paths["/h"]) == ["get"]


def test_every_schema_is_one_of_json_schema() -> None:
    for name, component in DOCUMENT["components"]["schemas"].items():
        Draft202012Validator.check_schema(component)
        assert component.get("description") or component.get("enum"), name
    text = json.dumps(DOCUMENT)
    for reference in set(text.split('"#/components/schemas/')[1:]):
        assert reference.split('"')[0] in DOCUMENT["components"]["schemas"]


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS_FOUND)
def test_every_operation_names_its_errors(path: str, method: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    assert "200" in responses
    assert ("401" in responses) == ("security" in operation)
    if method == "post":
        assert {"400", "408", "413", "415", "422", "500", "503"} <= set(responses)
    for status, response in responses.items():
        assert response["description"]
        if status not in ("200", "401"):
            assert list(response["content"]) == ["application/json"]


def test_streams_are_described_beside_plain_answers() -> None:
    answers = {
        path: item["post"]["responses"]["200"]["content"] for path, item in DOCUMENT["paths"].items() if "post" in item
    }
    both = ["application/json", "text/event-stream"]
    assert [path for path, media in answers.items() if list(media) == both] == [
        "/", "/v1/chat/completions", "/v1/completions", "/invocations"
    ]  # fmt: skip
    assert list(answers["/generate_stream"]) == ["text/event-stream"]


@pytest.mark.parametrize(
    ("path", "body", "events"),
    [
        ("/", {"inputs": "x", "stream": True}, True),
        ("/generate", {"inputs": "x", "parameters": {"details": True, "top_n_tokens": 2}}, False),
        ("/generate_stream", {"inputs": "x", "parameters": {"details": True, "top_n_tokens": 2}}, True),
        ("/generate_stream", {"inputs": ""}, True),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "logprobs": True}, False),
        ("/v1/chat/completions", {"messages": [], "stream": True, "stream_options": {"include_usage": True}}, True),
        ("/v1/completions", {"prompt": ["x", "y"], "logprobs": 2}, False),
        ("/v1/completions", {"prompt": "x", "stream": True}, True),
        ("/tokenize", {"inputs": "x"}, False),
        ("/tokenize", {"prompt": "x"}, False),
        ("/chat_tokenize", {"messages": []}, False),
        ("/detokenize", {"tokens": [1]}, False),
        ("/vertex", {"instances": [{"inputs": "x"}]}, False),
        ("/invocations", {"prompt": "x"}, False),
    ],
)
async def test_answers_are_what_was_described(path: str, body: dict[str, Any], events: bool) -> None:
    async with serve(answering("Hé")) as server:
        answer = await server.post(path, body)
    operation = DOCUMENT["paths"][path]["post"]
    media = "text/event-stream" if events else "application/json"
    described = operation["responses"]["200"]["content"][media]["schema"]
    assert answer.headers["content-type"] == media
    if events:
        data = described["properties"]["data"]
        described = data.get("anyOf", [data])[0]["contentSchema"]
    received = [event for event in answer.events if event != "[DONE]"] if events else [answer.json]
    assert received
    for one in received:
        Draft202012Validator(schema(described)).validate(one)
    if "headers" in operation["responses"]["200"] and not events:
        assert set(operation["responses"]["200"]["headers"]) <= set(answer.headers)


@pytest.mark.parametrize(("path", "method", "operation"), [one for one in OPERATIONS_FOUND if one[1] == "get"])
async def test_pages_are_what_was_described(path: str, method: str, operation: dict[str, Any]) -> None:
    async with serve() as server:
        answer = await server.get(path.replace("{model}", "tiny"))
    content = operation["responses"]["200"].get("content", {})
    if "application/json" in content:
        Draft202012Validator(schema(content["application/json"]["schema"])).validate(answer.json)
    assert bool(answer.body) == bool(content)


def test_health_says_more_than_other_errors() -> None:
    unhealthy = DOCUMENT["paths"]["/health"]["get"]["responses"]["503"]["content"]["application/json"]["schema"]
    assert unhealthy == {"$ref": "#/components/schemas/Unhealthy"}
    assert OPERATIONS[health.health].statuses == (503,)


def test_open_routes_ask_for_no_key_unless_all_are_closed() -> None:
    assert "security" not in DOCUMENT["paths"]["/info"]["get"]
    closed = document(routes(Http(protect_all=True)))["paths"]
    assert "security" in closed["/info"]["get"]
    assert "security" not in closed["/health"]["get"]
