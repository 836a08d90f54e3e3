"""`aiperf`: a short profile of the chat route without a failure."""

import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

url = sys.argv[1]
model = json.load(urllib.request.urlopen(url + "/v1/models"))["data"][0]["id"]
with tempfile.TemporaryDirectory() as folder:
    data = Path(folder) / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"Name {n} colours."}) + "\n" for n in range(2, 6)))
    # Its built-in tokenizer is fetched from a host of its own: the server's own serves as well.
    scores = [sys.argv[2], str(Path(__file__).parent / "transformer_scores.py"), "[]"]
    printed = subprocess.run(scores, capture_output=True, text=True, check=True).stdout
    (Path(folder) / "tokenizer.json").write_text(json.loads(printed.splitlines()[-1])["tokenizer"])
    (Path(folder) / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    command = [str(Path(sys.executable).parent / "aiperf"), "profile", "--model", model, "--url", url,
               "--endpoint-type", "chat", "--streaming", "--request-count", "4", "--concurrency", "1",
               "--input-file", str(data), "--custom-dataset-type", "single_turn", "--use-server-token-count",
               "--tokenizer", folder, "--extra-inputs", "max_tokens:8", "--ui", "none",
               "--artifact-dir", folder]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-1500:]
    report = json.loads(next(Path(folder).rglob("profile_export_aiperf.json")).read_text())
    assert report["request_count"]["avg"] == 4, report["request_count"]
    assert not report.get("error_request_count"), report["error_request_count"]
print("- profile of 4 streamed requests, 0 failures")
