"""Random requests made of our own description: none breaks the server, every answer is one that was described."""

from __future__ import annotations

import asyncio
import itertools
import json
import queue
import threading
from collections.abc import Iterable, Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS

from tests.server.serving import EOS, serve
from tgi.config import Http
from tgi.engine.messages import EngineRequest
from tgi.server.app import routes
from tgi.server.openapi import document

EXAMPLES = 4  # a route
NAMES = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
         "response_headers_conformance", "negative_data_rejection", "unsupported_method", "ignored_auth")  # fmt: skip
KEY = "a key of 18 letters"

SCHEMA = schemathesis.openapi.from_dict(json.loads(json.dumps(document(routes(Http())))))


def endlessly(request: EngineRequest) -> Iterable[int]:
    """An engine that answers in two characters, and goes on where the end is ignored."""
    return itertools.cycle((*"Hé".encode(), EOS))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A front end over a fake engine, in an event loop of its own: schemathesis is synchronous."""
    ready: queue.Queue[str] = queue.Queue()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def main() -> None:
        async with serve(endlessly, http=Http(hostname="127.0.0.1", port=0, api_key=KEY)) as server:
            ready.put(server.url)
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    yield ready.get(timeout=30)
    loop.call_soon_threadsafe(stop.set)
    thread.join(timeout=30)
    loop.close()


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_every_answer_is_one_that_was_described(case: schemathesis.Case, url: str) -> None:
    case.call_and_validate(
        base_url=url, headers={"authorization": f"Bearer {KEY}"}, checks=[CHECKS.get_one(name) for name in NAMES]
    )
