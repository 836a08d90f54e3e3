"""`PROGRAM serve` answers on MODEL with the native kernels, and ends when told to: the flake's check `serve`."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request

program, model = sys.argv[1:]
command = [program, "serve", "--model-id", model, "--hostname", "127.0.0.1", "--port", "0"]
body = {"inputs": "Hello", "parameters": {"max_new_tokens": 8, "details": True}}

with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
    try:
        assert server.stdout is not None
        told = []
        for line in server.stdout:
            told.append(line)
            if line.startswith("Connected"):
                break
        story = "".join(told)
        assert any(f"{path} kernels" in story for path in ("avx512", "avx2", "portable")), story
        url = "http://127.0.0.1:" + story.split("http://127.0.0.1:")[1].split()[0]
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}/generate", json.dumps(body).encode(), headers)
        answers = [json.load(urllib.request.urlopen(request, timeout=60)) for _ in range(2)]
        assert answers[0]["generated_text"] == answers[1]["generated_text"], answers
        assert 1 <= answers[0]["details"]["generated_tokens"] <= 8, answers
        server.terminate()
        assert server.wait(60) == 0, server.returncode
    finally:
        server.kill()
print(story, json.dumps(answers[0]))
