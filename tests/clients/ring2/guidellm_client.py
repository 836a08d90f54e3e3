"""`guidellm`: a short benchmark of the chat route without a failure."""

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
    data.write_text("".join(json.dumps({"prompt": f"Name {n} colours."}) + "\n" for n in range(2, 10)))
    output = Path(folder) / "out.json"
    command = [str(Path(sys.executable).parent / "guidellm"), "run",
               "--backend", f"kind=openai_http,target={url},model={model}", "--profile", "kind=synchronous",
               "--constraint", "kind=max_requests,count=4", "--data", f"kind=json_file,path={data}",
               "--output", f"kind=json,path={output}", "--disable-console-interactive"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-1500:]
    report = json.loads(output.read_text())
    totals = report["benchmarks"][0]["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"]) == (4, 0), totals
print("- benchmark of 4 synchronous requests, 0 failures")
