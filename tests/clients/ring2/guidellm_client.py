"""`guidellm`: a short benchmark of the chat and the completions route without a failure, with the tokens of our usage.

Without `max_tokens` each request runs until the model ends its answer, which a small one may never do.
"""

import json
import sys
import tempfile
from pathlib import Path

from server_side import counted, model_name, reference, run, since, write_tokenizer

REQUESTS, TOKENS = 4, 16
url, python = sys.argv[1:]
model = model_name(url)
with tempfile.TemporaryDirectory() as folder:
    data = Path(folder) / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"Name {n} colours."}) + "\n" for n in range(2, 10)))
    write_tokenizer(folder, reference(python, [])["tokenizer"])
    for route in ("/v1/chat/completions", "/v1/completions"):
        before = counted(url)
        output = Path(folder) / "out.json"
        backend = f"kind=openai_http,target={url},model={model},max_tokens={TOKENS},request_format={route}"
        run([str(Path(sys.executable).parent / "guidellm"), "run", "--backend", backend,
             "--profile", "kind=synchronous", "--constraint", f"kind=max_requests,count={REQUESTS}",
             "--tokenizer", f"kind=huggingface_auto,model={folder}", "--data", f"kind=json_file,path={data}",
             "--output", f"kind=json,path={output}", "--disable-console"])  # fmt: skip
        server = since(url, before)
        benchmark = json.loads(output.read_text())["benchmarks"][0]
        totals = benchmark["metrics"]["request_totals"]
        assert (totals["successful"], totals["errored"], totals["incomplete"]) == (REQUESTS, 0, 0), totals
        requests = benchmark["requests"]["successful"]
        theirs = {"prompt": sum(request["prompt_tokens"] for request in requests),
                  "output": sum(request["output_tokens"] for request in requests)}  # fmt: skip
        assert theirs == {name: server[name] for name in theirs}, (theirs, server)
        print(f"- {route}: {REQUESTS} requests, 0 failures, {server['output']} tokens on both sides")
