"""`/info`, `/v1/models` and `/v1/models/{id}`."""

from __future__ import annotations

import hashlib

import pytest

from tests.server.serving import serve
from tgi.config import Limits
from tgi.hub.files import FileHash
from tgi.server.routes.info import model_hash

TGI_KEYS = [
    "model_id", "model_sha", "model_pipeline_tag", "max_concurrent_requests", "max_best_of", "max_stop_sequences",
    "max_input_tokens", "max_total_tokens", "validation_workers", "max_client_batch_size", "router", "version", "sha",
    "docker_label",
]  # fmt: skip
MODEL = b'{"id":"owner/tiny","object":"model","created":0,"owned_by":"owner/tiny","max_model_len":1024}'


async def test_info_has_every_key_of_tgi() -> None:
    async with serve(limits=Limits(max_input_tokens=100, max_best_of=3)) as server:
        info = (await server.get("/info")).json
    assert list(info)[: len(TGI_KEYS)] == TGI_KEYS
    assert (info["model_id"], info["max_input_tokens"], info["max_total_tokens"]) == ("tiny", 100, 1024)
    assert (info["max_best_of"], info["router"], info["max_batch_total_tokens"]) == (3, "text-generation-router", 1024)


async def test_the_served_model_is_listed() -> None:
    async with serve(model_id="owner/tiny") as server:
        answer = await server.get("/v1/models")
    assert answer.body == b'{"object":"list","data":[' + MODEL + b"]}"


@pytest.mark.parametrize("path", ["owner/tiny", "owner%2Ftiny"])
async def test_the_served_model_is_found_by_its_id(path: str) -> None:
    async with serve(model_id="owner/tiny") as server:
        assert (await server.get(f"/v1/models/{path}")).body == MODEL


@pytest.mark.parametrize("path", ["tiny", "owner/tiny/", "..%2f..%2fetc%2fpasswd", "gpt%0A4"])
async def test_other_models_are_not_found(path: str) -> None:
    async with serve(model_id="owner/tiny") as server:
        answer = await server.get(f"/v1/models/{path}")
    assert (answer.status, answer.json["error_type"]) == (404, "model_not_found")
    assert "passwd" not in answer.body.decode()


def test_the_hash_of_a_model_is_that_of_its_list_of_files() -> None:
    listing = f"{'a' * 64}  config.json\n{'b' * 64}  model.safetensors\n"
    files = [FileHash("model.safetensors", 2, "b" * 64), FileHash("config.json", 1, "a" * 64)]
    assert model_hash(files) == hashlib.sha256(listing.encode()).hexdigest()
    assert model_hash([]) is None
    assert model_hash([*files, FileHash("other", 1, None)]) is None
