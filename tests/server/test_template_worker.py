"""The process that renders, spoken to as the front end speaks to it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Iterator
from multiprocessing.process import BaseProcess

import pytest

from tgi.errors import EngineGone
from tgi.server import template_worker
from tgi.server.template_worker import Known, Refused, Render, Rendered, Reply
from tgi.server.templates import Facts
from tgi.wire import Channel

SOURCES = {
    "default": "{{ messages[0].content }}{{ strftime_now('%Y') | length }}{{ eos_token }}",
    "tools": "{% for t in tools %}{{ t.function.arguments }}{% endfor %}{{ messages[0].tool_calls }}",
    "walk": "{{ ''.__class__.__mro__ }}",
    "surrogate": "{{ '\\ud800' }}",
    "pretty": "{{ messages | pprint }}{{ missing.attribute }}",
    "loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
}
ONE = b'[{"role":"user","content":"x"}]'


@pytest.fixture
def worker() -> Iterator[tuple[Channel[Render, Reply], BaseProcess]]:
    ours, theirs = socket.socketpair()
    process = multiprocessing.get_context("spawn").Process(
        target=template_worker.main, args=(theirs, os.getpid(), SOURCES, {"eos_token": "</s>"}), daemon=True
    )
    with theirs:
        process.start()
    channel: Channel[Render, Reply] = Channel(ours, Reply)
    yield channel, process
    channel.close()
    process.join()
    assert process.exitcode in (0, -signal.SIGPROF)  # it ends with its socket
    process.close()


def test_the_worker_tells_what_its_templates_expect_and_renders(
    worker: tuple[Channel[Render, Reply], BaseProcess],
) -> None:
    channel, _ = worker
    known = channel.receive()
    assert isinstance(known, Known)
    assert known.facts["default"] == Facts()
    assert (known.facts["tools"].tools, known.facts["tools"].tool_calls) == (True, True)
    channel.send(Render(template="default", messages=ONE))
    assert channel.receive() == Rendered("x4</s>")
    for name, reason, forbidden in (
        ("walk", "forbidden operation", True), ("surrogate", "not valid Unicode", False), ("pretty", "undefined", False)
    ):  # fmt: skip
        channel.send(Render(template=name, messages=ONE))
        refused = channel.receive()
        assert isinstance(refused, Refused)
        assert (reason in refused.message, refused.forbidden) == (True, forbidden), refused


def test_a_template_that_never_ends_ends_its_process(worker: tuple[Channel[Render, Reply], BaseProcess]) -> None:
    channel, process = worker
    channel.receive()
    channel.send(Render(template="loop", messages=ONE))
    with pytest.raises(EngineGone):
        channel.receive()
    process.join()
    assert process.exitcode == -signal.SIGPROF
