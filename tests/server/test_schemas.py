"""Bodies are read strictly: the right status for every wrong one, and null means absent."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tgi.server.schemas import (
    ChatRequest,
    CompletionRequest,
    GenerateParameters,
    GenerateRequest,
    Message,
    Rejected,
    parse,
)

INTEGERS = [
    "best_of",
    "top_k",
    "max_new_tokens",
    "truncate",
    "seed",
    "top_n_tokens",
    "min_tokens",
    "no_repeat_ngram_size",
]
FLOATS = ["temperature", "repetition_penalty", "frequency_penalty", "presence_penalty", "top_p", "typical_p", "min_p"]
BOOLEANS = ["do_sample", "return_full_text", "watermark", "details", "decoder_input_details", "ignore_eos"]


def native(**parameters: Any) -> bytes:
    return json.dumps({"inputs": "x", "parameters": parameters}).encode()


def status_of(body: bytes, type: Any = GenerateRequest) -> int:
    refused: Rejected | None = None
    try:
        parse(type, body)
    except Rejected as error:
        refused = error
    if refused is None:
        return 200
    beginning = {400: "Failed to parse the request body as JSON: "}
    default = "Failed to deserialize the JSON body into the target type: "
    assert str(refused).startswith(beginning.get(refused.status, default))
    assert refused.error_type == "validation"
    return refused.status


@pytest.mark.parametrize("field", INTEGERS)
@pytest.mark.parametrize(
    "value", ["1.0", "1.5", "1e1", '"7"', "true", "[]", "{}", "18446744073709551617", "1e400", "9" * 5000]
)
def test_integers_are_made_of_nothing_else(field: str, value: str) -> None:
    assert status_of(b'{"inputs":"x","parameters":{"%s":%s}}' % (field.encode(), value.encode())) == 422


@pytest.mark.parametrize("field", [field for field in INTEGERS if field != "top_k"])
def test_unsigned_integers_are_not_negative(field: str) -> None:
    assert status_of(native(**{field: -1})) == 422


def test_each_integer_has_its_width() -> None:
    for field, largest in {"top_k": 2**31 - 1, "max_new_tokens": 2**32 - 1, "seed": 2**64 - 1}.items():
        assert status_of(native(**{field: largest})) == 200
        assert status_of(native(**{field: largest + 1})) == 422
    assert parse(GenerateRequest, native(seed=2**64 - 1)).parameters.seed == 2**64 - 1  # type: ignore[union-attr]
    assert status_of(native(top_k=-(2**31))) == 200  # judged later, with TGI's words


@pytest.mark.parametrize("field", ["allowed_token_ids", "stop_token_ids"])
@pytest.mark.parametrize("value", [5, [-1], [1.0], ["1"], [True], [2**32], [None], "5"])
def test_lists_of_token_ids_hold_nothing_else(field: str, value: Any) -> None:
    assert status_of(native(**{field: value})) == 422
    assert status_of(native(bad_words_ids=[value])) == 422


@pytest.mark.parametrize("field", FLOATS)
def test_floats_may_be_written_as_integers_and_as_nothing_else(field: str) -> None:
    assert status_of(native(**{field: 1})) == 200
    for value in ("1e400", '"1"', "true", "[]"):
        assert status_of(b'{"inputs":"x","parameters":{"%s":%s}}' % (field.encode(), value.encode())) == 422


@pytest.mark.parametrize("field", BOOLEANS)
@pytest.mark.parametrize("value", [0, 1, "true", 1.0, []])
def test_booleans_are_true_or_false(field: str, value: Any) -> None:
    assert status_of(native(**{field: value})) == 422


def test_null_is_absent_for_everything_optional() -> None:
    nulls = dict.fromkeys(GenerateParameters.__struct_fields__)
    assert parse(GenerateRequest, native(**nulls)).parameters == GenerateParameters()
    assert parse(GenerateRequest, b'{"inputs":"x","parameters":null,"stream":null}') == GenerateRequest(inputs="x")
    for type, required in ((ChatRequest, {"messages": []}), (CompletionRequest, {"prompt": "x"})):
        body = json.dumps(dict.fromkeys(type.__struct_fields__) | required).encode()
        assert parse(type, body) == msgspec.convert(required, type)  # type: ignore[type-var]


@pytest.mark.parametrize("body", [b'{"inputs":null}', b"{}", b"[]", b'"x"', b"null", b"1", b'{"inputs":["x"]}'])
def test_a_prompt_is_needed(body: bytes) -> None:
    assert status_of(body) == 422


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b'{"inputs":"x"', b"not json", b'{"inputs":"x"}x', b'\xef\xbb\xbf{"inputs":"x"}',
        b'{"inputs":NaN}', b'{"inputs":"x","parameters":{"temperature":Infinity}}', b'{"inputs":"\\ud800"}',
        b'{"inputs":"\xff"}', b'{"inputs":"x","z":' + b"[" * 100_000, b'{"inputs":"a\nb"}',
        b'{"inputs":"x","z":' + b"[" * 128 + b"]" * 128 + b"}", b'{"inputs":"x","z":"\\ud800"}',
    ],
    ids=range(14),
)  # fmt: skip
def test_what_is_no_json_is_refused(body: bytes) -> None:
    assert status_of(body) == 400


def test_nesting_up_to_the_limit_is_allowed_and_brackets_in_text_do_not_count() -> None:
    assert status_of(b'{"inputs":"x","z":' + b"[" * 127 + b"]" * 127 + b"}") == 200
    assert status_of(json.dumps({"inputs": "[{" * 1000}).encode()) == 200


def test_unknown_keys_are_ignored() -> None:
    assert status_of(b'{"inputs":"x","zzz":1,"parameters":{"num_beams":3,"use_cache":true}}') == 200


def test_the_reason_names_the_place() -> None:
    with pytest.raises(Rejected) as refused:
        parse(GenerateRequest, native(top_k="7"))
    assert str(refused.value).endswith("target type: parameters.top_k: Expected `int | null`, got `str`")
    with pytest.raises(Rejected) as refused:
        parse(GenerateRequest, b"{}")
    assert str(refused.value).endswith("target type: missing field `inputs`")


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ({"role": "user", "content": "x"}, 200),
        ({"role": "user", "content": [{"type": "text", "text": "x", "extra": 1}]}, 200),
        ({"role": "assistant", "content": None, "tool_calls": []}, 200),
        ({"role": "tool", "content": "x", "tool_call_id": "1", "name": "f"}, 200),
        ({"role": "user", "content": None}, 422),
        ({"role": "user"}, 422),
        ({"content": "x"}, 422),
        ({"role": "user", "content": 5}, 422),
        ({"role": "user", "content": [{"type": "text"}]}, 422),
        ({"role": "user", "content": ["x"]}, 422),
    ],
)
def test_messages(message: dict[str, Any], status: int) -> None:
    assert status_of(json.dumps({"messages": [message]}).encode(), ChatRequest) == status
    assert Message(role="user", content="x").role == "user"


@pytest.mark.parametrize(
    ("prompt", "status"), [("x", 200), (["x", "y"], 200), ([], 422), ([1, 2], 200), ([[1]], 200), (5, 422)]
)
def test_prompts(prompt: Any, status: int) -> None:
    assert status_of(json.dumps({"prompt": prompt}).encode(), CompletionRequest) == status


def test_an_empty_list_of_prompts_is_named() -> None:
    with pytest.raises(Rejected, match=r"Empty array detected\. Do not use an empty array for the prompt\."):
        parse(CompletionRequest, b'{"prompt":[]}')


def test_openai_fields_may_have_openai_shapes() -> None:
    chat = {"messages": [], "stop": "x", "logit_bias": {"5": 1}, "tool_choice": {"type": "function"}, "tools": []}
    assert status_of(json.dumps(chat).encode(), ChatRequest) == 200
    assert status_of(json.dumps(chat | {"stop": ["x"], "logit_bias": [1.0]}).encode(), ChatRequest) == 200
    assert status_of(b'{"prompt":"x","logprobs":true}', CompletionRequest) == 200
    assert status_of(b'{"prompt":"x","seed":18446744073709551616}', CompletionRequest) == 422
