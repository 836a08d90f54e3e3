"""What TGI's users send and type, as data: every route, request field and flag of the specification.

A field has a value to be sent, what must be beside it, and words for what is special here. What becomes of it is not
written here: `tests/observed.py` sends it and sees.
"""

from __future__ import annotations

from typing import Any, NamedTuple

SAMPLE = {"do_sample": True, "seed": 1}
MESSAGES = {"messages": [{"role": "user", "content": "abc"}]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {}}}}}
TOOLS = {"tools": [TOOL]}
SCHEMA = {"properties": {"a": {"type": "boolean"}}}


class Field(NamedTuple):
    """One field of a request: its value, what is sent beside it, and what is to be said of it."""

    name: str
    value: Any
    note: str = ""
    beside: dict[str, Any] = {}  # noqa: RUF012  (never changed)


ROUTES = [
    ("POST", "/", ""), ("GET", "/", ""), ("POST", "/generate", ""), ("POST", "/generate_stream", ""),
    ("POST", "/v1/chat/completions", "errors before a stream begins have their real status"),
    ("POST", "/v1/completions", "choices are in order, the end of text is not shown"),
    ("GET", "/v1/models", "and `max_model_len`; also `/v1/models/{id}`"),
    ("POST", "/tokenize", "`prompt` or `messages` are answered with ids; also `/detokenize`"),
    ("POST", "/chat_tokenize", "asks for the api key"), ("POST", "/invocations", ""),
    ("POST", "/vertex", "all parameters are honoured, errors are told as they are"),
    ("GET", "/info", "more limits"), ("GET", "/health", "says why it is unhealthy"), ("GET", "/ping", "as `/health`"),
    ("GET", "/metrics", "more series"), ("GET", "/docs", "works offline"),
    ("GET", "/api-doc/openapi.json", "OpenAPI 3.1"),
]  # fmt: skip

PARAMETERS = [
    Field("best_of", 2, beside={"do_sample": True}), Field("temperature", 0.5), Field("repetition_penalty", 1.1),
    Field("frequency_penalty", 0.1), Field("top_k", 5), Field("top_p", 0.5, "1.0 is accepted as off"),
    Field("typical_p", 0.5, "1.0 is accepted as off"), Field("do_sample", True), Field("max_new_tokens", 1),
    Field("return_full_text", True), Field("stop", ["b"]), Field("truncate", 1), Field("watermark", True),
    Field("details", True), Field("decoder_input_details", True, "filled whenever it is asked for"),
    Field("seed", 2**64 - 1, beside={"do_sample": True}), Field("top_n_tokens", 2, beside={"details": True}),
    Field("grammar", {"type": "regex", "value": "a+"}, "a bad one fails its own request only, with 422"),
    Field("adapter_id", "x", "no adapter is loaded; TGI silently used the base model"),
    Field("stop_sequences", ["b"], "the older name of `stop`; TGI ignores it"),
    *(Field(name, 1, "as in TGI") for name in ("num_beams", "max_length", "use_cache", "wait_for_model")),
]  # fmt: skip

CHAT = [
    Field("model", "anything"), Field("max_tokens", 1), Field("max_completion_tokens", 1, beside={"max_tokens": 2}),
    Field("temperature", 0), Field("top_p", 0.5, "1.0 is accepted as off, and 0 as greedy"),
    Field("frequency_penalty", 0.1), Field("presence_penalty", 0.1, "an additive penalty, as OpenAI's"),
    Field("seed", 7), Field("stop", "b", "a text or a list; left out of the answer, as OpenAI does"),
    Field("stream", True), Field("stream_options", {"include_usage": True}, beside={"stream": True}),
    Field("logprobs", True), Field("top_logprobs", 2, "5 at most (`--max-top-n-tokens`)", beside={"logprobs": True}),
    Field("response_format", {"type": "json_object", "value": SCHEMA}, "TGI's and OpenAI's shapes"),
    Field("tools", [TOOL], "calls are valid, may be parallel, and finish with `tool_calls`"),
    Field("tool_choice", "required", "`auto` decides in one pass", beside=TOOLS),
    Field("tool_prompt", "x", beside=TOOLS),
    Field("parallel_tool_calls", False, "TGI makes one call at most", beside=TOOLS),
    Field("logit_bias", {"1": 2}, "OpenAI's object is honoured, TGI's list means nothing"),
    Field("n", 2, "TGI makes one choice always"), Field("repetition_penalty", 1.1, "TGI ignores it"),
    Field("top_k", 5, "TGI ignores it"), Field("user", "x", "as in TGI"), Field("metadata", {"x": "y"}, "as in TGI"),
    Field("best_of", 2, "as in TGI"),
    Field("chat_template", "x", "a template from a client is a program from a client"),
    Field("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
          "parts of a content that are no text: no supported model reads images"),
]  # fmt: skip

COMPLETIONS = [
    Field("model", "anything", "never echoed, as in TGI"), Field("max_tokens", 1), Field("temperature", 0.5),
    Field("top_p", 0.5), Field("stream", True), Field("seed", 7), Field("suffix", "x", "as in TGI"),
    Field("repetition_penalty", 1.1), Field("frequency_penalty", 0.1), Field("stop", ["b"]),
    Field("prompt", [97, 98], "token ids; TGI refuses them"), Field("echo", True, "TGI ignores it"),
    Field("n", 2, "TGI ignores it"), Field("best_of", 2, "TGI ignores it"), Field("logprobs", 1, "TGI ignores it"),
    Field("presence_penalty", 0.1, "TGI ignores it"), Field("logit_bias", {"1": 2}, "TGI ignores it"),
    Field("stream_options", {"include_usage": True}, "TGI ignores it", beside={"stream": True}),
    Field("user", "x", "as in TGI"),
]  # fmt: skip


class Flag(NamedTuple):
    """A flag of TGI's launcher: its default there, and values to be given (none for a flag without a value)."""

    name: str
    default: Any
    values: tuple[str, ...] = ()
    why: str = ""  # the default is another here

    @property
    def variable(self) -> str:
        """The environment variable of the same meaning."""
        return self.name.upper().replace("-", "_")


_LEARNT = "what the model and the memory allow; told by `/info`"
FLAGS = [
    Flag("model-id", "bigscience/bloom-560m", ("org/model",), "a small model that needs no download by hand"),
    Flag("revision", None, ("refs/pr/1",)), Flag("validation-workers", 2, ("3",)),
    Flag("sharded", None, ("false", "true")), Flag("num-shard", None, ("1", "2")),
    Flag("quantize", None, ("awq", "compressed-tensors", "eetq", "exl2", "gptq", "marlin", "bitsandbytes",
                            "bitsandbytes-nf4", "bitsandbytes-fp4", "fp8")),
    Flag("speculate", None, ("0", "2")), Flag("dtype", None, ("float16", "bfloat16")),
    Flag("kv-cache-dtype", None, ("fp8_e4m3fn", "fp8_e5m2")), Flag("trust-remote-code", False),
    Flag("max-concurrent-requests", 128, ("7",)), Flag("max-best-of", 2, ("3",)),
    Flag("max-stop-sequences", 4, ("5",)), Flag("max-top-n-tokens", 5, ("6",)),
    Flag("max-input-tokens", None, ("10",), _LEARNT), Flag("max-input-length", None, ("10",)),
    Flag("max-total-tokens", None, ("20",), _LEARNT), Flag("waiting-served-ratio", 0.3, ("1.2",)),
    Flag("max-batch-prefill-tokens", None, ("64",)), Flag("max-batch-total-tokens", None, ("4096",), _LEARNT),
    Flag("max-waiting-tokens", 20, ("5",)), Flag("max-batch-size", None, ("4",)),
    Flag("cuda-graphs", "1,2,4,8,16,32", ("0", "1,2,4"), "there is no CUDA yet"),
    Flag("hostname", "0.0.0.0", ("127.0.0.1",)),
    Flag("port", 3000, ("8080",)), Flag("prometheus-port", 9000, ("9001",), "TGI bound 9000 and served nothing on it"),
    Flag("shard-uds-path", "/tmp/text-generation-server", ("/tmp/x",)), Flag("master-addr", "localhost", ("host",)),
    Flag("master-port", 29500, ("29501",)), Flag("huggingface-hub-cache", None, ("/data",)),
    Flag("weights-cache-override", None, ("/weights",)), Flag("disable-custom-kernels", False),
    Flag("cuda-memory-fraction", 1.0, ("0.5",)), Flag("rope-scaling", None, ("linear", "dynamic")),
    Flag("rope-factor", None, ("2",)), Flag("json-output", False), Flag("otlp-endpoint", None, ("http://c:4317",)),
    Flag("otlp-service-name", "text-generation-inference.router", ("mine",)),
    Flag("cors-allow-origin", None, ("https://a.example",)), Flag("api-key", None, ("secret",)),
    Flag("watermark-gamma", 0.5, ("0.25",)), Flag("watermark-delta", 2.0, ("3",)), Flag("ngrok", False),
    Flag("ngrok-authtoken", None, ("x",)), Flag("ngrok-edge", None, ("x",)),
    Flag("tokenizer-config-path", None, ("t.json",)), Flag("disable-grammar-support", False), Flag("env", False),
    Flag("max-client-batch-size", 4, ("8",)), Flag("lora-adapters", None, ("a,b",)),
    Flag("usage-stats", "on", ("off", "no-stack")), Flag("payload-limit", 2_000_000, ("1000",)),
    Flag("enable-prefill-logprobs", False), Flag("graceful-termination-timeout", 90, ("5",)),
    Flag("max-image-fetch-size", 1 << 30, ("5",)),
]  # fmt: skip
