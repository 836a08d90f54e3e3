"""`tgi chat` through pipes and at a terminal, against servers that answer, hang, refuse and die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.chat.fake_chat_server import CUT, HANG, FakeChatServer
from tests.live import LiveServer
from tests.terminal import Terminal, tgi

MARKDOWN = ["# Ti", "tle\n\nSome **bo", "ld** text.\n\n", "- one\n- two\n\n", "```\ncode\n```\n"]


def run(*arguments: str, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]:
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(tgi("chat", *arguments), input=data, capture_output=True, check=False, timeout=60)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def environment(folder: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(folder)}


def test_a_pipe_gets_the_text_alone() -> None:
    with FakeChatServer(MARKDOWN) as fake:
        done = run("--url", fake.url, "--system", "Be terse.", "--max-tokens", "9", "--stop", "x", stdin="hi\nyou\n")
    assert (done.stdout, done.stderr, done.returncode) == ("".join(MARKDOWN), "", 0)
    request = fake.requests[0]
    assert request["model"] == "fake-model"
    assert [m["content"] for m in request["messages"]] == ["Be terse.", "hi\nyou"]
    assert (request["max_tokens"], request["stop"]) == (9, ["x"])


def test_a_question_and_a_file_are_one_message() -> None:
    with FakeChatServer(["fine"]) as fake:
        done = run("Summarise", "this:", "--url", f"{fake.url}/v1/", "--model", "m", stdin="a report\n")
    assert done.stdout == "fine\n"
    assert fake.requests[0]["messages"] == [{"role": "user", "content": "Summarise this:\n\na report"}]
    assert fake.requests[0]["model"] == "m"


def test_json_is_one_object_an_answer() -> None:
    with FakeChatServer(["a", "é"], ["half", CUT]) as fake:
        done = run("hi", "--json", "--url", fake.url)
        lost = run("hi", "--json", "--url", fake.url)
    fields = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert (fields["answer"], fields["finish_reason"], fields["usage"]["completion_tokens"]) == ("aé", "stop", 2)
    assert fields["model"] == "fake-model"
    assert {"tokens", "tokens_per_s", "ttft_s", "duration_s", "reasoning"} <= set(fields)
    fields = json.loads(lost.stdout)
    assert (fields["answer"], fields["finish_reason"], lost.returncode) == ("half", "connection_lost", 1)
    assert "lost" in fields["error"]


def test_a_connection_lost_in_a_pipe_keeps_what_came_and_fails() -> None:
    with FakeChatServer(["half", CUT]) as fake:
        done = run("hi", "--url", fake.url)
    assert (done.stdout, done.returncode) == ("half\n", 1)
    assert done.stderr.startswith("error: the connection to `http")
    assert "\nhint: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "message"),
    [
        (["--url", "ftp://x", "hi"], b"", 1, "`--url ftp://x` is no address"),
        (["--url", "http://127.0.0.1:1", "hi"], b"", 1, "no server answers at `http://127.0.0.1:1`"),
        ([], b"  \n", 1, "there is no question"),
        ([], b"\xff\xfe", 1, "stdin is no text"),
        (["--model-id", "m.gguf", "hi"], b"", 1, "`tgi serve --model-id m.gguf`"),
        (["--temperature", "-1", "hi"], b"", 2, "`--temperature`: -1"),
        (["--max-tokens", "0", "hi"], b"", 2, "`--max-tokens`: 0"),
        (["--top-p", "2", "hi"], b"", 2, "`--top-p`: 2"),
        (["--seed", "x", "hi"], b"", 2, "`--seed`: `x`"),
        (["--sytem", "x", "hi"], b"", 2, "did you mean `--system`?"),
        (["--api-key-file", "./missing", "hi"], b"", 1, "cannot read `--api-key-file ./missing`"),
    ],
)
def test_a_mistake_is_named_with_a_next_step(arguments: list[str], stdin: bytes, code: int, message: str) -> None:
    done = run(*arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "hint: " in done.stderr
    assert len(done.stderr.splitlines()) <= 5
    assert "Traceback" not in done.stderr


def test_among_several_models_one_must_be_chosen() -> None:
    with FakeChatServer(["fine"], models=("small", "large")) as fake:
        done = run("hi", "--url", fake.url)
        chosen = run("hi", "--url", fake.url, "--model", "large")
    assert done.returncode == 1
    assert "serves 2 models: `small`, `large`" in done.stderr
    assert "`--model small`" in done.stderr
    assert (chosen.stdout, fake.requests[0]["model"]) == ("fine\n", "large")


def test_the_key_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("from-file\n", encoding="utf-8")
    with FakeChatServer(["fine"]) as fake:
        run("hi", "--url", fake.url, "--model", "m", "--api-key-file", str(tmp_path / "key"))
        monkeypatch.setenv("API_KEY", "from-variable")
        run("hi", "--url", fake.url, "--model", "m")
    assert fake.keys == ["Bearer from-file", "Bearer from-variable"]


def test_a_conversation_at_a_terminal(tmp_path: Path) -> None:
    with (
        FakeChatServer(MARKDOWN, ["part of it", HANG], ["and on"]) as fake,
        Terminal(tgi("chat", "--url", fake.url), environment=environment(tmp_path)) as terminal,
    ):
        terminal.until(">>>")
        terminal.press("hello\r")
        screen = terminal.until("tokens/s")
        assert "**" not in screen
        assert "Some bold text." in screen
        terminal.press("more\r")
        terminal.until("part of it")
        terminal.press("ahead")
        terminal.press("\x03")
        assert terminal.until("stopped").count("part of it") == 1
        assert b"ahead" not in terminal.written  # what is typed meanwhile is not written into the answer
        terminal.press("third\\\r")
        terminal.until("\n...")
        terminal.press("line\r")
        terminal.until("and on")
        terminal.until(lambda screen: screen.rstrip().endswith(">>>"))
        terminal.press("\x1b[A\x1b[A\x15\x04")  # up twice, kill the line, Ctrl-D
        assert terminal.wait() == 0
        assert terminal.restored()
    assert [m["content"] for m in fake.requests[2]["messages"]] == [
        "hello", "".join(MARKDOWN), "more", "part of it", "third\nline",
    ]  # fmt: skip
    assert "hello" in (tmp_path / "tgi" / "chat_history").read_text(encoding="utf-8")


def test_interrupts_take_back_a_line_and_leave_at_an_empty_prompt(tmp_path: Path) -> None:
    with (
        FakeChatServer(["fine"]) as fake,
        Terminal(tgi("chat", "--url", fake.url), environment=environment(tmp_path)) as terminal,
    ):
        terminal.until(">>>")
        terminal.press("typed")
        terminal.until(">>> typed")
        terminal.press("\x03")
        terminal.until(lambda screen: screen.count(">>>") == 2)
        assert "leaves" not in terminal.text().splitlines()[-1]
        terminal.press("\x03")
        terminal.until("Ctrl-C again")
        terminal.until(lambda screen: screen.count(">>>") == 3)
        terminal.press("\x03")
        assert terminal.wait() == 0
        assert terminal.restored()


@pytest.mark.parametrize("moment", ["prompt", "answer"])
def test_a_signal_leaves_the_terminal_as_it_was(moment: str, tmp_path: Path) -> None:
    with (
        FakeChatServer(["part", HANG]) as fake,
        Terminal(tgi("chat", "--url", fake.url), environment=environment(tmp_path)) as terminal,
    ):
        terminal.until(">>>")
        if moment == "answer":
            terminal.press("hello\r")
            terminal.until("part")
        os.kill(terminal.process.pid, signal.SIGTERM)
        assert terminal.wait() == 128 + signal.SIGTERM
        assert terminal.restored()
    assert (tmp_path / "tgi" / "chat_history").exists()


def test_an_interrupt_in_a_pipe_keeps_what_came(tmp_path: Path) -> None:
    with FakeChatServer(["part", HANG]) as fake:
        process = subprocess.Popen(
            tgi("chat", "hi", "--url", fake.url),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.read(4) == b"part"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (out, err.strip(), process.returncode) == (b"\n", b"error: interrupted", 130)


def test_without_a_server_a_conversation_does_not_begin(tmp_path: Path) -> None:
    with Terminal(tgi("chat", "--url", "127.0.0.1:1", "--model", "m"), environment=environment(tmp_path)) as terminal:
        assert terminal.wait() == 1
    assert "error: no server answers at `http://127.0.0.1:1`" in terminal.text()
    assert "`tgi serve --port 1`" in terminal.text()
    assert ">>>" not in terminal.text()


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_plain_terminals_get_no_colours(variables: dict[str, str], tmp_path: Path) -> None:
    with (
        FakeChatServer(["# plain\n\ntext"]) as fake,
        Terminal(
            tgi("chat", "hi", "--url", fake.url, "--model", "m"), environment=environment(tmp_path) | variables
        ) as terminal,
    ):
        terminal.press("\x04")
        assert terminal.wait() == 0
    assert b"\x1b[3" not in terminal.written.replace(b"\x1b[3m", b"")
    assert "plain" in terminal.text()


def test_a_real_model_answers_and_the_conversation_is_saved(live_server: LiveServer, tmp_path: Path) -> None:
    arguments = tgi("chat", "--url", live_server.url, "--temperature", "0", "--max-tokens", "12", "--seed", "1")
    path = tmp_path / "talk.json"
    with Terminal(arguments, columns=100, rows=30, environment=environment(tmp_path)) as terminal:
        terminal.until(">>>")
        terminal.press("What is the capital of France?\r")
        terminal.until("tokens/s")
        terminal.press(f"/save {path}\r")
        terminal.until("saved 2 messages")
        terminal.press("/reset\r")
        terminal.until("conversation forgotten")
        terminal.press(f"/load {path}\r")
        terminal.until("loaded 2 messages")
        terminal.press("/exit\r")
        assert terminal.wait() == 0
    saved = json.loads(path.read_text(encoding="utf-8"))["messages"]
    done = run("What is the capital of France?", *arguments[4:])
    assert done.stdout.strip() == saved[1]["content"].strip()
