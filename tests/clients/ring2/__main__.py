"""Ring 2 of the clients: `python -m tests.clients.ring2 [CLIENT ...]` runs each against a real `tgi serve`.

Every client gets a virtual environment of its own in the user's cache folder, so none of them has to agree with tgi or
with another about versions. A client's script prints what it did, one line each; results go to `docs/clients.md`.
Needs a package index that pip can reach.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from tests.live import LiveServer

HERE = Path(__file__).parent
PAGE = HERE.parents[2] / "docs" / "clients.md"
CACHE = platformdirs.user_cache_path("tgi") / "clients"
MARK = "<!-- ring 2: written by `python -m tests.clients.ring2` -->\n"
LIMIT_S = 600


@dataclass(frozen=True, slots=True)
class Client:
    """What to install, and the script that uses it."""

    requirements: str  # the client first
    script: str

    @property
    def package(self) -> str:
        """The distribution's name."""
        return self.requirements.split()[0].partition("==")[0].partition("[")[0]


CLIENTS = [
    Client("text-generation==0.7.0", "text_generation_client.py"),
    Client("langchain-openai", "langchain_openai_client.py"),
    Client("langchain-huggingface", "langchain_huggingface_client.py"),
    Client("litellm mcp", "litellm_client.py"),
    Client("llama-index-llms-openai-like", "llama_index_client.py"),
    Client("lm-eval[api] transformers", "lm_eval_client.py"),
    Client("guidellm", "guidellm_client.py"),
    Client("aiperf", "aiperf_client.py"),
]


def main(names: list[str]) -> int:
    """Run the named clients (all, without names) and write the page. Returns: 1 if any failed."""
    rows = [row for row in _known_rows() if row.split("`")[1] not in names] if names else []
    failed = False
    # Exact arithmetic: lm-eval's scores are held to those of transformers.
    with LiveServer("--max-client-batch-size", "16") as server:
        for client in CLIENTS:
            if names and client.package not in names:
                continue
            version, passed, told = _run(client, server.url)
            print(f"{client.package} {version}: {'passed' if passed else 'FAILED'}\n  {told}", flush=True)
            rows.append(f"| `{client.package}` | {version} | {'passed' if passed else '**failed**'} | {told} |")
            failed |= not passed
    before = PAGE.read_text().partition(MARK)[0]
    order = [client.package for client in CLIENTS]
    rows.sort(key=lambda row: order.index(row.split("`")[1]))
    table = ["| client | version | result | what was run, or why it failed |", "|---|---|---|---|", *rows]
    PAGE.write_text(before + MARK + "\n".join(table) + "\n")
    return int(failed)


def _known_rows() -> list[str]:
    """The rows of earlier runs."""
    page = PAGE.read_text().partition(MARK)[2]
    return [line for line in page.splitlines() if line.startswith("| `")]


def _run(client: Client, url: str) -> tuple[str, bool, str]:
    """Install and run one client. Returns: its version, whether it passed, and what it told."""
    folder = CACHE / client.package
    python = folder / "bin" / "python"
    try:
        if not python.exists():
            venv.create(folder, with_pip=True)
        _check([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check",
                *client.requirements.split()])  # fmt: skip
        show = "import importlib.metadata as m, json, sys; print(json.dumps(m.version(sys.argv[1])))"
        version = json.loads(_check([str(python), "-c", show, client.package]).splitlines()[-1])
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return "-", False, f"not installed: {_last(str(error))}"
    try:
        told = _check([str(python), str(HERE / client.script), url, str(sys.executable)])
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return version, False, _last(str(error))
    return version, True, "; ".join(line[2:] for line in told.splitlines() if line.startswith("- "))


def _check(command: list[str]) -> str:
    """The standard output of a command. Raises: RuntimeError with everything it said; TimeoutExpired."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].replace("|", "/")[:300] if lines else "no output"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
