"""`/invocations`, `/vertex` and the routes that Vertex AI chooses itself."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.serving import answering, serve
from tgi.config import Http, Limits
from tgi.engine.messages import EngineRequest
from tgi.errors import GenerationError

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"inputs": "a", "parameters": {"max_new_tokens": 2}}, "/"),
        ({"inputs": "a", "stream": True}, "/"),
        ({"inputs": "a", "messages": 1, "prompt": 2}, "/"),
        (CHAT, "/v1/chat/completions"),
        (CHAT | {"prompt": "x"}, "/v1/chat/completions"),
        ({"prompt": "a"}, "/v1/completions"),
        ({"inputs": 1, "prompt": ["a", "b"], "stream": True}, "/v1/completions"),
    ],
)
async def test_sagemaker_gets_the_answer_of_the_route_its_body_fits(body: dict[str, Any], path: str) -> None:
    async with serve(answering("ab")) as server:
        direct, through = await server.post(path, body), await server.post("/invocations", body)
        assert await server.metric("tgi_request_count") == 2
    assert (through.status, through.headers["content-type"]) == (200, direct.headers["content-type"])
    assert _without_names(through.events or through.json) == _without_names(direct.events or direct.json)


def _without_names(answer: Any) -> Any:
    """The same but for what differs from answer to answer."""
    if isinstance(answer, list):
        return [_without_names(item) for item in answer]
    return {k: v for k, v in answer.items() if k not in ("id", "created")} if isinstance(answer, dict) else answer


@pytest.mark.parametrize("body", [{}, {"inputs": 1}, {"inputs": None, "messages": None}, {"instances": []}])
async def test_sagemaker_bodies_that_fit_no_route_are_refused(body: dict[str, Any]) -> None:
    async with serve() as server:
        answer = await server.post("/invocations", body)
    assert (answer.status, answer.json["error_type"]) == (422, "validation")


async def test_vertex_answers_in_the_order_of_the_instances() -> None:
    def respond(request: EngineRequest) -> list[int]:
        return [*request.prompt_ids[:1], 257]  # the first byte of the prompt

    async with serve(respond) as server:
        instances = [{"inputs": "xyz"}, CHAT, {"inputs": "q", "parameters": {"return_full_text": True}}]
        answer = await server.post("/vertex", {"instances": instances})
        assert await server.metric("tgi_request_count") == 1
        assert await server.metric("tgi_request_success") == 3
    assert (answer.status, answer.body) == (200, b'{"predictions":["x","[","qq"]}')
    assert not [name for name in answer.headers if name.startswith("x-") and name != "x-request-id"]


async def test_vertex_honours_parameters_and_computes_no_prompt_scores() -> None:
    async with serve(answering("abc")) as server:
        parameters = {"max_new_tokens": 2, "seed": 7, "temperature": 0.5, "decoder_input_details": True}
        instances = [{"inputs": "x", "parameters": parameters}, {"inputs": "y"}, {"inputs": "z", "parameters": {}}]
        answer = await server.post("/vertex", {"instances": instances})
        asked = sorted(server.supervisor.requests, key=lambda request: request.prompt_ids)
    assert answer.json == {"predictions": ["ab", "abc", "abc"]}
    assert (asked[0].sampling.seed, asked[0].sampling.temperature) == (7, 0.5)
    assert [request.sampling.do_sample for request in asked] == [True, True, False]
    assert not any(request.prompt_logprobs for request in asked)


async def test_an_empty_vertex_call_is_refused_in_tgis_words() -> None:
    async with serve() as server:
        answer = await server.post("/vertex", {"instances": []})
    assert (answer.status, answer.json) == (
        422,
        {"error": "Input validation error", "error_type": "Input validation error"},
    )


async def test_a_vertex_call_fails_as_its_instance_does_and_frees_the_others() -> None:
    def respond(request: EngineRequest) -> Any:
        return [GenerationError("boom")] if request.prompt_ids[:1] == b"b" else []

    async with serve(respond) as server:
        failed = await server.post("/vertex", {"instances": [{"inputs": "a"}, {"inputs": "b"}]})
        refused = await server.post("/vertex", {"instances": [{"inputs": "a"}, {"inputs": ""}]})
        wrong = await server.post("/vertex", {"instances": [{"inputs": "a"}, 3]})
        assert server.services.inference.idle
        assert await server.metric("tgi_request_count") == 2
        assert await server.metric('tgi_request_failure{err="generation"}') == 1
    assert (failed.status, failed.json["error_type"]) == (424, "generation")
    assert refused.json == {"error": "Input validation error: `inputs` cannot be empty", "error_type": "validation"}
    assert (wrong.status, wrong.json["error_type"]) == (422, "validation")


async def test_every_instance_takes_a_permit() -> None:
    async with serve(answering("a"), limits=Limits(max_concurrent_requests=2)) as server:
        answer = await server.post("/vertex", {"instances": [{"inputs": "a"}] * 3})
        assert server.services.inference.idle
    assert (answer.status, answer.json["error_type"]) == (429, "overloaded")
    assert "retry-after" in answer.headers


def vertex_http(**changes: Any) -> Http:
    routes = {"aip_predict_route": "/v1/endpoints/1:predict", "aip_health_route": "/v1/endpoints/1"}
    return Http(hostname="127.0.0.1", port=0, **(routes | changes))


async def test_vertex_may_choose_its_routes() -> None:
    async with serve(answering("a"), http=vertex_http(api_key="k")) as server:
        body = {"instances": [{"inputs": "x"}]}
        assert (await server.get("/v1/endpoints/1")).status == 200
        assert (await server.post("/v1/endpoints/1:predict", body)).status == 401
        answer = await server.post("/v1/endpoints/1:predict", body, authorization="Bearer k")
    assert answer.json == {"predictions": ["a"]}


async def test_vertex_may_choose_the_routes_there_are() -> None:
    async with serve(http=vertex_http(aip_predict_route="/vertex", aip_health_route="/health")) as server:
        assert (await server.get("/health")).status == 200
