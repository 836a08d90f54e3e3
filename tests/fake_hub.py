"""A hub on loopback that speaks the hub's own protocol, with scripted faults; for its real library to talk to.

    hub.add("owner/name", {"config.json": b"{}", "model.safetensors": weights})
    hub.cut("owner/name", "model.safetensors", at=1000)       # the connection ends after so many bytes of that answer

Files in LFS (weights, or whatever is large) are answered as the hub does: 302 to a content network on another port,
with `X-Linked-Etag` (the SHA-256) and `X-Linked-Size`; other files come directly, under the name git gives them.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from aiohttp import web

LFS_SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt")
LFS_BYTES = 10 << 20


@dataclass
class Commit:
    """One state of a repository."""

    sha: str
    files: dict[str, bytes]


@dataclass
class Repository:
    """A model: branches, and who may read it. `private` ones exist for their readers only."""

    branches: dict[str, Commit]
    gated: bool = False
    private: bool = False
    tokens: frozenset[str] = frozenset()


@dataclass
class Fault:
    """What happens to the next answers to a path: `status` instead of them, or a cut after `at` bytes."""

    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    at: int | None = None
    stall: bool = False
    reset: bool = False


@dataclass(frozen=True)
class Seen:
    """A request, as it came."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    on_network: bool


class FakeHub:
    """The server, its repositories, and all requests it got."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.seen: list[Seen] = []
        self.sent: dict[str, int] = {}  # bytes of each file's content that left
        self.corrupt: dict[tuple[str, str], bytes] = {}  # what is sent instead of a file's content
        self.ignore_ranges = False
        self.sizes = True  # some mirrors list names alone
        self.xet = False
        self._faults: dict[tuple[str, str], list[Fault]] = {}
        self._loop = asyncio.new_event_loop()
        self._stalled = asyncio.Event()
        self._runners: list[web.AppRunner] = []
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.network = self._start(on_network=True)
        self.endpoint = self._start(on_network=False)

    def add(self, repository: str, files: Mapping[str, bytes], *, branch: str = "main", gated: bool = False,
            private: bool = False, tokens: tuple[str, ...] = ()) -> str:  # fmt: skip
        """A new commit of a repository; returns its name."""
        text = repr((repository, branch, sorted(files.items())))
        commit = Commit(hashlib.sha1(text.encode()).hexdigest(), dict(files))
        known = self.repositories.setdefault(repository, Repository({}))
        known.gated, known.private, known.tokens = gated, private, frozenset(tokens)
        known.branches[branch] = commit
        known.branches[commit.sha] = commit
        return commit.sha

    def cut(self, repository: str, path: str, *at: int, reset: bool = False) -> None:
        """End the connection after so many bytes of the next answers with this file, one number an answer."""
        self._faults.setdefault((repository, path), []).extend(Fault(at=place, reset=reset) for place in at)

    def stall(self, repository: str, path: str, at: int) -> None:
        """Send so many bytes of the file, and then nothing until the hub is closed."""
        self._faults.setdefault((repository, path), []).append(Fault(at=at, stall=True))

    def fail(self, repository: str, path: str, status: int, *, times: int = 1, **headers: str) -> None:
        """Answer the next requests for this file (`""`: for the list of files) with an error."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._faults.setdefault((repository, path), []).append(Fault(times=times, status=status, headers=named))

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for, in order of first request."""
        names = [
            unquote(seen.path.split("/", 4)[-1])
            for seen in self.seen
            if seen.method == "GET" and seen.path.startswith("/lfs/")
        ]
        direct = [unquote(seen.path.split("/resolve/")[1].split("/", 1)[1]) for seen in self.seen
                  if seen.method == "GET" and "/resolve/" in seen.path]  # fmt: skip
        return list(dict.fromkeys(direct or names))

    def ranges(self, path: str) -> list[str | None]:
        """The `Range` of each request for a file's content, in order."""
        return [
            seen.range for seen in self.seen if seen.method == "GET" and seen.on_network and seen.path.endswith(path)
        ]

    def close(self) -> None:
        """Stop, cutting all connections."""
        if self._loop.is_closed():
            return
        for runner in self._runners:
            self._wait(runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _start(self, *, on_network: bool) -> str:
        async def start() -> str:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", self._from_network if on_network else self._answer)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self._runners.append(runner)
            return f"http://127.0.0.1:{runner.addresses[0][1]}"

        return str(self._wait(start()))

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def _note(self, request: web.Request, *, on_network: bool) -> None:
        self.seen.append(Seen(request.method, request.path, request.headers.get("Range"),
                              request.headers.get("Authorization"), on_network))  # fmt: skip

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self._note(request, on_network=False)
        path = request.rel_url.raw_path
        listing = re.fullmatch(r"/api/models/([^/]+(?:/[^/]+)?)(?:/(revision|tree)/([^/?]+))?", path)
        if listing:
            return await self._list(request, unquote(listing[1]), listing[2], unquote(listing[3] or "main"))
        file = re.fullmatch(r"/([^/]+/[^/]+|[^/]+)/resolve/([^/]+)/(.+)", path)
        if file:
            return await self._resolve(request, unquote(file[1]), unquote(file[2]), unquote(file[3]))
        return web.Response(status=404)

    def _refuse(self, request: web.Request, repository: str, branch: str, *, content: bool) -> web.Response | None:
        known = self.repositories.get(repository)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if known is None or (known.private and token not in known.tokens):
            if not token:
                return _error(401, None, "Invalid username or password.")
            return _error(404, "RepoNotFound", "Repository not found")
        if content and known.gated and token not in known.tokens:
            return _error(403 if token else 401, "GatedRepo", f"Access to model {repository} is restricted.")
        if branch not in known.branches:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        return None

    async def _list(self, request: web.Request, repository: str, kind: str | None, branch: str) -> web.Response:
        refusal = self._scripted(repository, "") or self._refuse(request, repository, branch, content=False)
        if refusal is not None:
            return refusal
        known = self.repositories[repository]
        commit = known.branches[branch]
        if kind == "tree":
            return web.json_response([
                {"type": "file", "path": name, "size": len(data), "oid": git_id(data)} | _lfs(name, data)
                for name, data in sorted(commit.files.items())
            ])  # fmt: skip
        blobs = request.query.get("blobs", "").lower() in ("true", "1") and self.sizes
        siblings = [
            {"rfilename": name} | ({"size": len(data), "blobId": git_id(data)} | _lfs(name, data) if blobs else {})
            for name, data in sorted(commit.files.items())
        ]
        return web.json_response({
            "_id": "0", "id": repository, "modelId": repository, "sha": commit.sha, "private": known.private,
            "gated": "auto" if known.gated else False, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0,
        })  # fmt: skip

    async def _resolve(self, request: web.Request, repository: str, branch: str, path: str) -> web.StreamResponse:
        refusal = self._scripted(repository, path) if request.method == "GET" else None
        refusal = refusal or self._refuse(request, repository, branch, content=True)
        if refusal is not None:
            return refusal
        commit = self.repositories[repository].branches[branch]
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            return _error(404, "EntryNotFound", "Entry not found", headers)
        data = commit.files[path]
        if not is_lfs(path, data):
            return await self._send(request, repository, path, data, headers | {"ETag": f'"{git_id(data)}"'})
        sha256 = hashlib.sha256(data).hexdigest()
        headers |= {
            "X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data)), "ETag": f'"{git_id(data)}"',
            "Location": f"{self.network}/lfs/{repository}/{commit.sha}/{path}",
        }  # fmt: skip
        if self.xet:
            headers["X-Xet-Hash"] = sha256
        return web.Response(status=302, headers=headers)

    async def _from_network(self, request: web.Request) -> web.StreamResponse:
        """The content network: no names but those of content, and no tokens."""
        self._note(request, on_network=True)
        found = re.fullmatch(r"/lfs/(.+)/([0-9a-f]{40})/([^/]+)", request.path)
        if found is None:
            return web.Response(status=404)
        data = self.repositories[found[1]].branches[found[2]].files[found[3]]
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        return await self._send(request, found[1], found[3], data, headers)

    async def _send(self, request: web.Request, repository: str, path: str, data: bytes,
                    headers: dict[str, str]) -> web.StreamResponse:  # fmt: skip
        data = self.corrupt.get((repository, path), data)
        start, status = 0, 200
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if asked and not self.ignore_ranges:
            start, status = int(asked[1]), 206
            if start >= len(data):
                return web.Response(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
            headers |= {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(data) - start
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        fault = self._next(repository, path) if self._is_cut(repository, path) else None
        body = data[start:] if fault is None or fault.at is None else data[start : start + fault.at]
        await response.write(body)
        self.sent[path] = self.sent.get(path, 0) + len(body)
        if fault is not None:
            if fault.stall:
                await self._stalled.wait()
            assert request.transport is not None
            if fault.reset:
                request.transport.abort()
            else:
                request.transport.close()
        return response

    def _is_cut(self, repository: str, path: str) -> bool:
        waiting = self._faults.get((repository, path))
        return bool(waiting) and waiting[0].at is not None

    def _next(self, repository: str, path: str) -> Fault | None:
        waiting = self._faults.get((repository, path))
        if not waiting:
            return None
        waiting[0].times -= 1
        return waiting[0] if waiting[0].times > 0 else waiting.pop(0)

    def _scripted(self, repository: str, path: str) -> web.Response | None:
        waiting = self._faults.get((repository, path))
        if not waiting or waiting[0].status is None:
            return None
        fault = self._next(repository, path)
        assert fault is not None
        assert fault.status is not None
        return web.Response(status=fault.status, headers=fault.headers, text="scripted")


def git_id(data: bytes) -> str:
    """The name git gives to content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_lfs(name: str, data: bytes) -> bool:
    """Whether the hub keeps such a file outside of git."""
    return name.endswith(LFS_SUFFIXES) or len(data) > LFS_BYTES


def _lfs(name: str, data: bytes) -> dict[str, Any]:
    if not is_lfs(name, data):
        return {}
    sha256 = hashlib.sha256(data).hexdigest()
    return {"lfs": {"oid": sha256, "sha256": sha256, "size": len(data), "pointerSize": 134}}


def _error(status: int, code: str | None, message: str, headers: dict[str, str] | None = None) -> web.Response:
    named = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
    return web.json_response({"error": message}, status=status, headers=named)
