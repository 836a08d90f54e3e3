"""Constraints on a real server: each does what it says, all of them side by side, and no pair of features breaks it."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import aiohttp
import pytest

from tests.live import LiveServer
from tgi.runner.watermark import detect

PROMPT = "Deep learning is"
CASES: list[dict[str, Any]] = [
    {},
    {"no_repeat_ngram_size": 1},
    {"bad_words": ["mindset", "the"]},
    {"allowed_token_ids": list(range(300, 900))},
    {"min_tokens": 20},
    {"ignore_eos": True},
    {"stop_token_ids": [28]},
    {"watermark": True},
    {"watermark": True, "do_sample": True, "seed": 4, "min_p": 0.02},
    {"do_sample": True, "seed": 5, "bad_words_ids": [[28]], "no_repeat_ngram_size": 2, "top_n_tokens": 3},
    {"do_sample": True, "seed": 6, "grammar": {"type": "regex", "value": "[a-z]{3,9} [0-9]{2}"}, "min_tokens": 9},
    {"decoder_input_details": True, "presence_penalty": 1.0, "logit_bias": {"28": -100}},
]
# What vLLM and others have been broken by in pairs (spec/reliability.md V11), in OpenAI's and in our words.
FEATURES: dict[str, dict[str, Any]] = {
    "penalties": {"presence_penalty": 0.5, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
    "grammar": {"guided_regex": "[a-z]+"},
    "logprobs": {"logprobs": 3},
    "watermark": {"watermark": True},
    "choices": {"n": 2},
    "seed": {"seed": 3},
    "stop": {"stop": ["e"]},
    "stop ids": {"stop_token_ids": [28]},
    "echo": {"echo": True},
    "greedy": {"temperature": 0},
    "warped": {"top_k": 5, "top_p": 0.9, "typical_p": 0.9, "min_p": 0.01},
    "words": {"bad_words": ["the"], "no_repeat_ngram_size": 2},
    "allowed": {"allowed_token_ids": [30, 31, 32, 33]},
    "minimum": {"min_tokens": 3},
    "endless": {"ignore_eos": True},
    "bias": {"logit_bias": {"31": 5}},
}


async def post(server: LiveServer, path: str, bodies: list[dict[str, Any]]) -> list[tuple[int, Any]]:
    """Status and JSON of requests sent all at once."""

    async def one(session: aiohttp.ClientSession, body: dict[str, Any]) -> tuple[int, Any]:
        async with session.post(server.url + path, json=body) as response:
            return response.status, await response.json()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        return await asyncio.gather(*(one(session, body) for body in bodies))


async def generate(server: LiveServer, parameters: list[dict[str, Any]], tokens: int = 24) -> list[dict[str, Any]]:
    bodies = [
        {"inputs": PROMPT, "parameters": {"max_new_tokens": tokens, "details": True} | given} for given in parameters
    ]
    answers = await post(server, "/generate", bodies)
    assert [status for status, _ in answers] == [200] * len(answers)
    return [answer for _, answer in answers]


def ids(answer: dict[str, Any]) -> list[int]:
    return [token["id"] for token in answer["details"]["tokens"]]


async def test_constraints_do_what_they_say_and_do_not_touch_each_other(live_server: LiveServer) -> None:
    together = await generate(live_server, CASES)
    alone = [(await generate(live_server, [case]))[0] for case in CASES]

    assert together == alone
    plain, once, words, allowed, longer, endless, stopped, *_ = together
    assert len(set(ids(once))) == len(ids(once))
    assert "mindset" in plain["generated_text"]
    assert not {"mindset", "the"} & set(words["generated_text"].split())
    assert set(ids(allowed)) <= set(range(300, 900))
    assert len(ids(longer)) >= 20
    assert len(ids(endless)) == 24
    assert (ids(stopped)[-1], stopped["details"]["finish_reason"]) == (28, "eos_token")
    assert 28 not in ids(together[9])
    assert together[10]["details"]["finish_reason"] == "eos_token"  # a complete grammar ends before the minimum


async def test_a_watermark_is_found_in_what_was_generated_with_it_alone(live_server: LiveServer) -> None:
    settings = [{"watermark": marked, "do_sample": True, "seed": 1, "ignore_eos": True} for marked in (True, False)]
    marked, plain = [
        detect(ids(answer), vocab_size=49152, gamma=0.5) for answer in await generate(live_server, settings, tokens=100)
    ]
    assert marked.z_score > 4
    assert plain.z_score < 3


async def test_choices_of_a_prompt_share_its_blocks(live_server: LiveServer) -> None:
    async def cached() -> float:
        async with aiohttp.ClientSession() as session, session.get(live_server.url + "/metrics") as response:
            lines = (await response.text()).splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("tgi_prefix_cache_hit_tokens "))

    before = await cached()
    body = {"prompt": "one two three four five six seven eight nine ten " * 20, "n": 4, "max_tokens": 2}
    ((status, answer),) = await post(live_server, "/v1/completions", [body])

    blocks = answer["usage"]["prompt_tokens"] // 16
    assert status == 200
    assert blocks > 10
    assert await cached() - before == 3 * 16 * blocks


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"allowed_token_ids": [49152]}, "`allowed_token_ids` token ids must be >= 0 and < 49152"),
        ({"bad_words_ids": [[1, 2**32 - 1]]}, "`bad_words_ids` token ids must be >= 0 and < 49152"),
        ({"stop_token_ids": [49152]}, "`stop_token_ids` token ids must be >= 0 and < 49152"),
        ({"logit_bias": {"49152": 1.0}}, "`logit_bias` token ids must be >= 0 and < 49152"),
    ],
)
async def test_an_id_beyond_the_logits_is_refused_beside_a_request_that_goes_on(
    live_server: LiveServer, parameters: dict[str, Any], reason: str
) -> None:
    (expected,) = await generate(live_server, [{}])
    good = {"inputs": PROMPT, "parameters": {"max_new_tokens": 24, "details": True}}
    answers = await post(
        live_server, "/generate", [good, {"inputs": PROMPT, "parameters": parameters | {"max_new_tokens": 4}}]
    )

    assert answers[0] == (200, expected)
    assert answers[1] == (422, {"error": f"Input validation error: {reason}", "error_type": "validation"})


async def test_no_pair_of_features_breaks_anything(live_server: LiveServer) -> None:
    engine = live_server.engine().pid
    pairs = list(itertools.combinations(FEATURES, 2))
    base = {"prompt": PROMPT, "max_tokens": 4}
    outcomes: list[tuple[int, Any]] = []
    for start in range(0, len(pairs), 24):
        bodies = [base | FEATURES[one] | FEATURES[other] for one, other in pairs[start : start + 24]]
        outcomes += await post(live_server, "/v1/completions", bodies)
    broken = {pair: outcome for pair, outcome in zip(pairs, outcomes, strict=True) if outcome[0] not in (200, 422)}
    refused = {pair for pair, outcome in zip(pairs, outcomes, strict=True) if outcome[0] == 422}

    # Letters alone, and none of the allowed tokens is one: nothing is left to choose.
    assert set(broken) == {("grammar", "allowed")}
    assert broken["grammar", "allowed"][0] == 424
    assert refused == {("grammar", "endless")}
    assert live_server.engine().pid == engine
