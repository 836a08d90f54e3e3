"""`/tokenize`."""

from __future__ import annotations

from tests.server.serving import byte_level, serve


async def test_tokens_with_their_places() -> None:
    async with serve(tokenizer=byte_level(add_bos=True)) as server:
        answer = await server.post("/tokenize", {"inputs": "ab", "parameters": {"truncate": 1}})
        assert await server.metric("tgi_request_count") == 0
    assert answer.body == (
        b'[{"id":256,"text":"","start":0,"stop":0},{"id":97,"text":"a","start":0,"stop":1},'
        b'{"id":98,"text":"b","start":1,"stop":2}]'
    )


async def test_a_body_of_the_wrong_shape_is_refused() -> None:
    async with serve() as server:
        assert (await server.post("/tokenize", {"inputs": 1})).status == 422
