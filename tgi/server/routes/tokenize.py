"""POST `/tokenize` and `/detokenize`, GET `/tokenizer_info`: text to tokens and back, without generating."""

from __future__ import annotations

from aiohttp import web
from msgspec import Struct

from tgi.errors import ValidationError
from tgi.server.responses import encode, encode_array
from tgi.server.routes.chat import render_prompt
from tgi.server.schemas import ChatRequest, DetokenizeRequest, GenerateRequest, PromptRequest, kind
from tgi.server.services import SERVICES, Services, json_response, peek, read


class TokenIds(Struct):
    """The answer of `/tokenize` to `prompt` or `messages`."""

    tokens: list[int]
    count: int
    max_model_len: int  # most tokens of a prompt and its answer together


class Text(Struct):
    """The answer of `/detokenize`."""

    prompt: str


class TokenizerInfo(Struct):
    """The answer of `/tokenizer_info`: the special tokens as text, and the template of conversations."""

    tokenizer_class: str | None
    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    pad_token: str | None
    chat_template: str | None
    vocab_size: int
    max_model_len: int


async def tokenize(request: web.Request) -> web.StreamResponse:
    """The tokens of `inputs` with their byte offsets, as TGI; of `prompt` or `messages` the ids alone, as vLLM."""
    asked = kind(await peek(request))
    if asked == "messages":
        services, chat = await read(request, ChatRequest)
        prompt = await render_prompt(services, chat)
        return await _ids(services, prompt, add_special_tokens=False)
    if asked == "prompt":
        services, text = await read(request, PromptRequest)
        return await _ids(services, text.prompt, add_special_tokens=text.add_special_tokens is not False)
    services, body = await read(request, GenerateRequest)
    tokens = await services.tokenizer.tokenize(body.inputs, add_special_tokens=True)
    return web.Response(body=await encode_array(tokens), content_type="application/json")


async def detokenize(request: web.Request) -> web.StreamResponse:
    """The text of token ids, special tokens included."""
    services, body = await read(request, DetokenizeRequest)
    width = services.ready.vocab_size
    if any(token_id >= width for token_id in body.tokens):
        raise ValidationError(f"`tokens` must be >= 0 and < {width}")
    return json_response(Text(await services.tokenizer.decode(body.tokens)))


async def tokenizer_info(request: web.Request) -> web.StreamResponse:
    """What a client needs to know of the tokenizer to prepare prompts itself."""
    services = request.app[SERVICES]
    names = ("tokenizer_class", "bos_token", "eos_token", "unk_token", "pad_token", "chat_template")
    known = {name: services.tokenizer_config.get(name) for name in names}
    return json_response(
        TokenizerInfo(
            **{name: value if isinstance(value, str) else None for name, value in known.items()},
            vocab_size=services.ready.vocab_size,
            max_model_len=services.validator.max_total_tokens,
        )
    )


async def _ids(services: Services, text: str, *, add_special_tokens: bool) -> web.Response:
    ids = await services.tokenizer.encode(text, add_special_tokens=add_special_tokens)
    answer = b'{"tokens":%s,"count":%d,"max_model_len":%s}' % (
        await encode_array(ids), len(ids), encode(services.validator.max_total_tokens)
    )  # fmt: skip
    return web.Response(body=answer, content_type="application/json")
