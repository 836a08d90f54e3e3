"""Conversations as OpenAI's clients send them become the prompts that transformers makes of them, style by style."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from tests.server.more_template_styles import MORE_STYLES
from tests.server.serving import byte_level
from tests.server.template_styles import STYLES, Style
from tgi.server.conversations import template_messages
from tgi.server.renderer import Renderer
from tgi.server.schemas import Message
from tgi.server.template_worker import Render
from tgi.server.templates import ChatTemplate, wants_argument_text
from tgi.server.tool_formats import find_format

ALL = STYLES | MORE_STYLES
SYSTEM = {"role": "system", "content": 'Be <b>kind</b> & "brief".'}
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": " Grüß dich!\n"},
    {"role": "assistant", "content": "<think>\nWell.\n</think>\n\nHello 你好 "},
    {"role": "user", "content": "{{ 1 + 1 }} 'quoted' \\n"},
]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "One. "}, {"type": "text", "text": " Two."}]}]
ARGUMENTS = {"city": "Zürich", "days": 2, "nested": {"ok": True, "none": None}}
CALLS: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "tool_calls": [
            {"id": "a1b2c3d4e", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
        ],
    },
    {"role": "tool", "tool_call_id": "a1b2c3d4e", "name": "weather", "content": '{"degrees": 21.5}'},
]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Where, as “name”"}, "days": {"type": "integer"}},
    "required": ["city"],
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "now", "description": "The <time>.", "parameters": PARAMETERS}},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def conversations(style: Style) -> list[tuple[list[dict[str, Any]], list[dict[str, Any]] | None]]:
    """What a style takes: messages, and tools."""
    plain: list[list[dict[str, Any]]] = [TALK[:1], TALK]
    if style.system:
        plain.append([SYSTEM, *TALK])
    if style.parts:
        plain = [[{**m, "content": [{"type": "text", "text": m["content"]}]} for m in talk] for talk in plain]
        plain += [PARTS, TALK] if "is string" in style.template else [PARTS]
    asked: list[tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = [(talk, None) for talk in plain]
    if style.tools:
        asked += [(TALK[:1], TOOLS), (CALLS, TOOLS)]
    return asked


def as_sent(messages: list[dict[str, Any]]) -> list[Message]:
    """The messages as an OpenAI client sends them: arguments are JSON text."""
    sent = json.loads(json.dumps(messages))
    for message in sent:
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return msgspec.convert(sent, list[Message])


def expected(style: Style, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
    """What transformers makes of it."""
    if style.text_arguments:  # such a template asks for a content that is None, which `apply_chat_template` takes away
        shown = [{"content": None, **msgspec.to_builtins(message)} for message in as_sent(messages)]
        rendered, _ = render_jinja_template(
            conversations=[shown], tools=tools, chat_template=style.template, add_generation_prompt=True, **TOKENS
        )
        return str(rendered[0])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(), chat_template=style.template, **TOKENS)
    return str(tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True))


@pytest.mark.parametrize("name", ALL)
def test_a_conversation_becomes_the_prompt_that_transformers_makes(name: str) -> None:
    style = ALL[name]
    template = ChatTemplate(style.template, **TOKENS)
    facts = msgspec.structs.replace(template.facts, argument_text=wants_argument_text(template))
    shows_tools = style.tools and name != "deepseek-v3"  # which shows calls only
    assert (facts.missing, facts.tools, facts.tool_calls) == (None, shows_tools, style.tools)
    assert (facts.content_parts, facts.argument_text) == (style.parts, style.text_arguments)
    for messages, tools in conversations(style):
        prompt = template.render(template_messages(as_sent(messages), facts), tools=tools)
        assert prompt == expected(style, messages, tools)
        assert "Weather?" in prompt or "dich!" in prompt or "One." in prompt


async def test_the_worker_renders_every_style_as_the_same_prompt() -> None:
    renderer = Renderer({name: style.template for name, style in ALL.items()}, TOKENS)
    encode = msgspec.json.encode
    try:
        for name, style in ALL.items():
            for messages, tools in conversations(style):
                if style.text_arguments and tools:
                    continue
                asked = Render(template=name, messages=encode(messages), tools=encode(tools))
                assert await renderer._ask(asked) == expected(style, messages, tools)
    finally:
        renderer.close()


def test_text_becomes_a_part_for_a_template_that_takes_only_parts() -> None:
    template = ChatTemplate(ALL["smolvlm-parts-only"].template, **TOKENS)
    prompt = template.render(template_messages(as_sent(TALK[:1]), template.facts))
    assert prompt == "<s>User:  Grüß dich!\n<end_of_utterance>\nAssistant:"


def test_parts_become_one_text_for_a_template_that_takes_text() -> None:
    template = ChatTemplate(ALL["chatml"].template)
    assert "user\nOne.  Two.<|im_end|>" in template.render(template_messages(as_sent(PARTS), template.facts))


@pytest.mark.parametrize("name", ["qwen2.5", "llama3.1", "gemma3", "zephyr", "phi3", "granite"])
def test_the_assistants_last_words_are_continued_where_transformers_continues_them(name: str) -> None:
    style = ALL[name]
    messages = [TALK[0], {"role": "assistant", "content": "Once upon a user"}]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(), chat_template=style.template, **TOKENS)
    continued = tokenizer.apply_chat_template(messages, tokenize=False, continue_final_message=True)
    assert ChatTemplate(style.template, **TOKENS).render(messages) == continued


@pytest.mark.parametrize("thinking", [True, False])
def test_template_variables_of_a_request_reach_the_template(thinking: bool) -> None:
    style = ALL["qwen3"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(), chat_template=style.template, **TOKENS)
    known = tokenizer.apply_chat_template(
        TALK[:1], tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    assert ChatTemplate(style.template, **TOKENS).render(TALK[:1], {"enable_thinking": thinking}) == known


@pytest.mark.parametrize(
    ("name", "row"),
    [("qwen2.5", "hermes"), ("qwen3", "hermes"), ("hermes", "hermes"), ("llama3.1", "llama3"),
     ("mistral-v3", "mistral"), ("granite", "granite"), ("deepseek-v3", "deepseek"), ("chatml", "generic"),
     ("gemma3", "generic")],
)  # fmt: skip
def test_the_way_to_call_tools_is_read_from_the_template(name: str, row: str) -> None:
    assert find_format(ALL[name].template).name == row
