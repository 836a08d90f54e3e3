"""Templates render in a process that a runaway template costs, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from tgi.errors import ModelError, TemplateError
from tgi.server.renderer import Renderer
from tgi.server.template_worker import PROCESS_NAME

PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
WALK = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
SOMETIMES = PLAIN + "{% if messages[0].content == 'loop' %}" + LOOP + "{% endif %}"
HUGE = PLAIN + "{% if messages[0].content == 'huge' %}{{ ('x' * n) | length }}{% endif %}"
TOOL = {"type": "function", "function": {"name": "f"}}


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@contextlib.asynccontextmanager
async def rendering(**sources: str) -> AsyncIterator[Renderer]:
    renderer = Renderer(sources, {"bos_token": "<s>"})
    try:
        yield renderer
    finally:
        renderer.close()


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.name() == PROCESS_NAME]


async def test_prompts_come_from_another_process() -> None:
    async with rendering(default="{{ bos_token }}" + PLAIN) as renderer:
        await renderer.start()
        (worker,) = workers()
        assert await renderer.render(user("Hé\x00")) == "<s>[user]Hé\x00"
    assert not worker.is_running()


async def test_a_rendering_that_runs_away_fails_alone_and_the_worker_is_replaced() -> None:
    async with rendering(default=SOMETIMES) as renderer:
        await renderer.start()
        (before,) = workers()
        began = time.monotonic()
        one, two, three = await asyncio.gather(
            renderer.render(user("a")),
            renderer.render(user("loop")),
            renderer.render(user("b")),
            return_exceptions=True,
        )
        assert time.monotonic() - began < 10
        assert (one, three) == ("[user]a", "[user]b")
        assert isinstance(two, TemplateError)
        assert str(two) == "Template error: the template needs more than 1 s or too much memory"
        (after,) = workers()
        assert before.pid != after.pid


async def test_the_event_loop_goes_on_while_a_template_runs_away() -> None:
    async with rendering(default=SOMETIMES) as renderer:
        asked = asyncio.create_task(renderer.render(user("loop")))
        turns = 0
        while not asked.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert turns > 50
        assert isinstance(asked.exception(), TemplateError)


async def test_memory_is_bounded() -> None:
    async with rendering(default=HUGE) as renderer:
        with pytest.raises(TemplateError, match="failed with MemoryError"):
            await renderer.render(user("huge"), {"n": 8 << 30})
        assert await renderer.render(user("x")) == "[user]x"


async def test_the_output_is_bounded() -> None:
    async with rendering(default="{% for i in range(99) %}{{ 'x' * 100000 }}{% endfor %}") as renderer:
        with pytest.raises(TemplateError, match="longer than 8388608 characters"):
            await renderer.render([])


async def test_a_client_that_leaves_does_not_leave_its_prompt_to_the_next() -> None:
    async with rendering(default=PLAIN) as renderer:
        await renderer.start()
        left = [asyncio.create_task(renderer.render(user(f"left {n}"))) for n in range(5)]
        for _ in range(5):  # the first has been sent, and is not answered yet
            await asyncio.sleep(0)
        for task in left:
            task.cancel()
        assert await renderer.render(user("mine")) == "[user]mine"
        assert all(
            isinstance(error, asyncio.CancelledError) for error in await asyncio.gather(*left, return_exceptions=True)
        )


@pytest.mark.parametrize(("source", "reason"), [(WALK, "forbidden operation"), (LOOP, "needs more than 1 s")])
async def test_a_template_that_leaves_its_sandbox_or_never_ends_is_refused_when_it_is_loaded(
    source: str, reason: str
) -> None:
    began = time.monotonic()
    async with rendering(default=source) as renderer:
        with pytest.raises(ModelError, match=reason) as refused:
            await renderer.start()
        assert refused.value.exit_code == 16
        assert refused.value.hint is not None
    assert time.monotonic() - began < 5
    assert workers() == []


async def test_a_template_that_is_dangerous_with_tools_only_is_found_too() -> None:
    async with rendering(default=PLAIN + "{% if tools %}" + WALK + "{% endif %}") as renderer:
        with pytest.raises(ModelError, match="forbidden operation"):
            await renderer.start()


async def test_a_template_that_refuses_a_single_question_is_no_reason_not_to_start() -> None:
    async with rendering(default="{{ raise_exception('say more') }}") as renderer:
        await renderer.start()
        with pytest.raises(TemplateError, match="say more"):
            await renderer.render(user("x"))


@pytest.mark.parametrize("sources", [{}, {"rag": PLAIN}, {"default": "{% for %}"}])
async def test_a_model_without_a_usable_template_starts_and_says_so(
    sources: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    async with rendering(**sources) as renderer:
        with caplog.at_level(logging.WARNING):
            await renderer.start()
        assert any(record.message.startswith("conversations are refused: ") for record in caplog.records)
        with pytest.raises(TemplateError, match=r"template not found|syntax error"):
            await renderer.render(user("x"))


async def test_the_template_for_tools_is_used_with_tools() -> None:
    async with rendering(default="D", tool_use="T{{ tools | length }}") as renderer:
        assert await renderer.render(user("x")) == "D"
        assert await renderer.render(user("x"), tools=[TOOL]) == "T1"
        assert (renderer.source(with_tools=False), renderer.source(with_tools=True)) == ("D", "T{{ tools | length }}")
        assert not (await renderer.facts(with_tools=False)).tools
        assert (await renderer.facts(with_tools=True)).tools


async def test_numbers_of_any_size_reach_the_template() -> None:
    async with rendering(default="{{ n }} {{ tools | tojson }}") as renderer:
        big = 123456789012345678901234567890
        assert (
            await renderer.render([], {"n": big}, tools=[{"b": 1.5, "a": big}]) == f'{big} [{{"b": 1.5, "a": {big}}}]'
        )
