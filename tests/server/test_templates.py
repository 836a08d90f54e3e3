"""Conversations render as transformers renders them, in a sandbox."""

from __future__ import annotations

import re
from typing import Any

import pytest
from transformers.utils.chat_template_utils import _compile_jinja_template

from tgi.errors import TemplateError
from tgi.server.templates import ChatTemplate

CHATML = """{% for message in messages %}
    {% if loop.first and message['role'] != 'system' %}
{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}
    {%- endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
LOOPS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'skip' %}{% continue %}{% endif %}"
    "{% generation %}{{ m.content.strip().upper() }}{% endgeneration %}{{ m | tojson }}"
    "{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}{{ eos_token }}{{ tools is none }}"
)
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": " <b>Hé</b> & 你 "},
    {"role": "skip", "content": "x"},
    {"role": "user", "content": "y"},
]


@pytest.mark.parametrize("source", [CHATML, LOOPS])
def test_a_template_means_what_it_means_to_transformers(source: str) -> None:
    expected = _compile_jinja_template(source).render(
        messages=MESSAGES, tools=None, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
    )
    assert ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(MESSAGES) == expected


@pytest.mark.parametrize(
    ("source", "content"),
    [(CHATML, "Once upon"), ("{% for m in messages %}{{ m.content | trim }}!{% endfor %}", " Once upon ")],
)
def test_an_assistants_last_words_are_continued(source: str, content: str) -> None:
    messages = [{"role": "user", "content": "Tell. Once upon"}, {"role": "assistant", "content": content}]
    assert ChatTemplate(source).render(messages).endswith("Once upon")
    assert not ChatTemplate(source).render(messages[:1]).endswith("Once upon")


def test_a_missing_template_is_reported_when_used() -> None:
    template = ChatTemplate(None)
    assert template.facts.missing == "Template error: template not found"
    with pytest.raises(TemplateError, match="Template error: template not found"):
        template.render(MESSAGES)


def test_a_template_that_does_not_compile_is_reported_when_used() -> None:
    template = ChatTemplate("{% for %}")
    with pytest.raises(TemplateError, match=r"Template error: syntax error: .* \(in chat_template:1\)"):
        template.render(MESSAGES)


def test_a_template_may_refuse() -> None:
    template = ChatTemplate("{{ raise_exception('no system role') }}")
    with pytest.raises(TemplateError) as refused:
        template.render(MESSAGES)
    assert str(refused.value) == "Template error: syntax error: no system role (in chat_template)"
    assert refused.value.status == 422


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages[0].content.format.__self__ }}",
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{{ messages + 1 }}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox_or_break_the_server(source: str) -> None:
    try:
        told = ChatTemplate(source).render(MESSAGES)
    except TemplateError as refused:
        told = str(refused)
    assert not re.search(r"0x[0-9a-f]|<class|<built-in|__builtins__", told)


def test_a_prompt_has_a_limit() -> None:
    source = "{% for i in range(99999) %}{{ '" + "x" * 100 + "' }}{% endfor %}"
    with pytest.raises(TemplateError, match="the prompt is longer than 8388608 characters"):
        ChatTemplate(source).render(MESSAGES)


def test_extra_variables_reach_the_template_but_replace_nothing() -> None:
    template = ChatTemplate("{{ enable_thinking }}{{ messages | length }}")
    assert template.render(MESSAGES, {"enable_thinking": False}) == "False3"
    for name in ("messages", "bos_token", "raise_exception", "range", "tools"):
        with pytest.raises(TemplateError, match=f"`chat_template_kwargs` must not set `{name}`"):
            template.render(MESSAGES, {name: 1})


def test_the_date_is_available() -> None:
    assert ChatTemplate("{{ strftime_now('%Y') }}").render(MESSAGES).isdigit()
