"""`/tokenize`, `/detokenize` and `/tokenizer_info`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.serving import BOS, TEMPLATE, byte_level, serve


async def test_tokens_with_their_places() -> None:
    async with serve(tokenizer=byte_level(add_bos=True)) as server:
        answer = await server.post("/tokenize", {"inputs": "ab", "parameters": {"truncate": 1}})
        assert await server.metric("tgi_request_count") == 0
    assert answer.body == (
        b'[{"id":256,"text":"","start":0,"stop":0},{"id":97,"text":"a","start":0,"stop":1},'
        b'{"id":98,"text":"b","start":1,"stop":2}]'
    )


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"prompt": "ab"}, [BOS, 97, 98]),
        ({"prompt": "ab", "add_special_tokens": False}, [97, 98]),
        ({"prompt": ""}, [BOS]),
        ({"messages": [{"role": "u", "content": "x"}]}, [*b"[u]x[assistant]"]),
        ({"messages": [{"role": "u", "content": "x"}], "prompt": "ignored", "model": "tiny"}, [*b"[u]x[assistant]"]),
    ],
)
async def test_prompts_and_conversations_become_ids(body: dict[str, Any], tokens: list[int]) -> None:
    async with serve(tokenizer=byte_level(add_bos=True)) as server:
        answer = await server.post("/tokenize", body)
    assert answer.json == {"tokens": tokens, "count": len(tokens), "max_model_len": 1024}


@pytest.mark.parametrize(
    "body", [{"inputs": 1}, {}, {"prompt": 1}, {"prompt": ["a"]}, {"messages": 1}, {"messages": [{}]}, {"inputs": None}]
)
async def test_a_body_of_the_wrong_shape_is_refused(body: dict[str, Any]) -> None:
    async with serve() as server:
        answer = await server.post("/tokenize", body)
    assert (answer.status, answer.json["error_type"]) == (422, "validation")


async def test_ids_become_the_text_they_came_from() -> None:
    async with serve(tokenizer=byte_level(add_bos=True)) as server:
        tokens = (await server.post("/tokenize", {"prompt": "Hé 你"})).json["tokens"]
        answer = await server.post("/detokenize", {"tokens": tokens})
        assert (await server.post("/detokenize", {"tokens": []})).json == {"prompt": ""}
    assert answer.json == {"prompt": "<s>Hé 你"}


@pytest.mark.parametrize("tokens", [[320], [-1], [2**31], [2**64], [1.5], ["1"], [True], 1, None])
async def test_ids_outside_the_vocabulary_are_refused(tokens: Any) -> None:
    async with serve() as server:
        assert (await server.post("/detokenize", {"tokens": tokens})).status == 422


async def test_the_tokenizer_is_described() -> None:
    async with serve() as server:
        info = (await server.get("/tokenizer_info")).json
    assert (info["bos_token"], info["eos_token"], info["pad_token"]) == ("<s>", "</s>", None)
    assert (info["chat_template"], info["vocab_size"], info["max_model_len"]) == (TEMPLATE, 320, 1024)
