"""`/info` and `/v1/models`."""

from __future__ import annotations

from tests.server.serving import serve
from tgi.config import Limits

TGI_KEYS = [
    "model_id", "model_sha", "model_pipeline_tag", "max_concurrent_requests", "max_best_of", "max_stop_sequences",
    "max_input_tokens", "max_total_tokens", "validation_workers", "max_client_batch_size", "router", "version", "sha",
    "docker_label",
]  # fmt: skip


async def test_info_has_every_key_of_tgi() -> None:
    async with serve(limits=Limits(max_input_tokens=100, max_best_of=3)) as server:
        info = (await server.get("/info")).json
    assert list(info)[: len(TGI_KEYS)] == TGI_KEYS
    assert (info["model_id"], info["max_input_tokens"], info["max_total_tokens"]) == ("tiny", 100, 1024)
    assert (info["max_best_of"], info["router"], info["max_batch_total_tokens"]) == (3, "text-generation-router", 1024)


async def test_the_served_model_is_listed() -> None:
    async with serve() as server:
        answer = await server.get("/v1/models")
    assert answer.body == (b'{"object":"list","data":[{"id":"tiny","object":"model","created":0,"owned_by":"tiny"}]}')
