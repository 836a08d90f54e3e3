"""What TGI's users send and type, as data: every route, request field and flag, and what becomes of it here.

A row is a name, a valid value, a state and a note. The states: `same` as TGI; `superset`: TGI's meaning and more;
`fixed`: a defect of TGI's that is not copied; `refused`: answered with 422 that names the field.
"""

from __future__ import annotations

from typing import Any, NamedTuple

SAME, SUPERSET, FIXED, REFUSED = "same", "superset", "fixed", "refused"


class Field(NamedTuple):
    """One field of a request."""

    name: str
    value: Any
    state: str = SAME
    note: str = ""


ROUTES = [
    ("POST", "/", SAME, ""), ("GET", "/", SAME, ""), ("POST", "/generate", SAME, ""),
    ("POST", "/generate_stream", SAME, ""),
    ("POST", "/v1/chat/completions", FIXED, "errors before a stream begins have their real status"),
    ("POST", "/v1/completions", FIXED, "choices are in order, the end of text is not shown"),
    ("GET", "/v1/models", SUPERSET, "`max_model_len`; also `/v1/models/{id}`"),
    ("POST", "/tokenize", SUPERSET, "`prompt` or `messages` are answered with ids; also `/detokenize`"),
    ("POST", "/chat_tokenize", FIXED, "asks for the api key"), ("POST", "/invocations", SAME, ""),
    ("POST", "/vertex", FIXED, "all parameters are honoured, errors are told as they are"),
    ("GET", "/info", SUPERSET, "more limits"), ("GET", "/health", SUPERSET, "says why it is unhealthy"),
    ("GET", "/ping", SUPERSET, "as `/health`"), ("GET", "/metrics", SUPERSET, "more series"),
    ("GET", "/docs", SAME, "works offline"), ("GET", "/api-doc/openapi.json", SUPERSET, "OpenAPI 3.1"),
]  # fmt: skip

PARAMETERS = [
    Field("best_of", 1), Field("temperature", 0.5), Field("repetition_penalty", 1.1), Field("frequency_penalty", 0.1),
    Field("top_k", 5), Field("top_p", 1.0, FIXED, "1.0 is accepted as off"),
    Field("typical_p", 1.0, FIXED, "1.0 is accepted as off"), Field("do_sample", True), Field("max_new_tokens", 5),
    Field("return_full_text", True), Field("stop", ["x"]), Field("truncate", 1), Field("watermark", True),
    Field("details", True), Field("decoder_input_details", True, FIXED, "filled whenever it is asked for"),
    Field("seed", 2**64 - 1), Field("top_n_tokens", 2),
    Field("grammar", {"type": "regex", "value": "a+"}, FIXED, "a bad one fails its own request only, with 422"),
    Field("adapter_id", "x", REFUSED, "no adapter is loaded; TGI silently used the base model"),
]  # fmt: skip

CHAT = [
    Field("model", "anything"), Field("max_tokens", 5), Field("max_completion_tokens", 5),
    Field("temperature", 0), Field("top_p", 1.0, FIXED, "1.0 is accepted as off"), Field("frequency_penalty", 0.1),
    Field("presence_penalty", 0.1, FIXED, "an additive penalty, as OpenAI's"), Field("seed", 1),
    Field("stop", "x", SUPERSET, "a text or a list; left out of the answer, as OpenAI does"), Field("stream", False),
    Field("stream_options", {"include_usage": True}), Field("logprobs", True), Field("top_logprobs", 2),
    Field("response_format", {"type": "text"}, SUPERSET, "TGI's and OpenAI's shapes"),
    Field("tools", [], FIXED, "calls are valid, may be parallel, and finish with `tool_calls`"),
    Field("tool_choice", "none", FIXED, "`auto` decides in one pass"), Field("tool_prompt", "x"),
    Field("logit_bias", {"1": 2}, SUPERSET, "OpenAI's object is honoured"), Field("n", 2, SUPERSET, "honoured"),
    Field("user", "x"),
]  # fmt: skip

COMPLETIONS = [
    Field("model", "anything"), Field("max_tokens", 5), Field("temperature", 0.5), Field("top_p", 0.5),
    Field("stream", False), Field("seed", 1), Field("suffix", "x", REFUSED, "as in TGI"),
    Field("repetition_penalty", 1.1), Field("frequency_penalty", 0.1), Field("stop", ["x"]),
    Field("echo", True, SUPERSET, "honoured"), Field("n", 2, SUPERSET, "honoured"),
    Field("logprobs", 1, SUPERSET, "honoured"),
    Field("presence_penalty", 0.1, SUPERSET, "honoured"), Field("logit_bias", {"1": 2}, SUPERSET, "honoured"),
]  # fmt: skip

FLAGS = [
    "model-id", "revision", "validation-workers", "sharded", "num-shard", "quantize", "speculate", "dtype",
    "kv-cache-dtype", "trust-remote-code", "max-concurrent-requests", "max-best-of", "max-stop-sequences",
    "max-top-n-tokens", "max-input-tokens", "max-input-length", "max-total-tokens", "waiting-served-ratio",
    "max-batch-prefill-tokens", "max-batch-total-tokens", "max-waiting-tokens", "max-batch-size", "cuda-graphs",
    "hostname", "port", "prometheus-port", "shard-uds-path", "master-addr", "master-port", "huggingface-hub-cache",
    "weights-cache-override", "disable-custom-kernels", "cuda-memory-fraction", "rope-scaling", "rope-factor",
    "json-output", "otlp-endpoint", "otlp-service-name", "cors-allow-origin", "api-key", "watermark-gamma",
    "watermark-delta", "ngrok", "ngrok-authtoken", "ngrok-edge", "tokenizer-config-path", "disable-grammar-support",
    "env", "max-client-batch-size", "lora-adapters", "usage-stats", "payload-limit", "enable-prefill-logprobs",
    "graceful-termination-timeout",
]  # fmt: skip
