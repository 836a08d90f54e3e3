"""`aiperf`: a short profile of the chat route and of TGI's own, without a failure; both sides count the same tokens."""

import json
import sys
import tempfile
from pathlib import Path

from server_side import counted, model_name, reference, run, since, write_tokenizer

REQUESTS, TOKENS = 4, 8
url, python = sys.argv[1:]
model = model_name(url)
tokenizer = reference(python, [])["tokenizer"]
with tempfile.TemporaryDirectory() as folder:
    data = Path(folder) / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"Name {n} colours."}) + "\n" for n in range(2, 2 + REQUESTS)))
    write_tokenizer(folder, tokenizer)
    for route, limit in (
        ("chat", ["--extra-inputs", f"max_tokens:{TOKENS}"]),
        ("huggingface_generate", ["--output-tokens-mean", str(TOKENS)]),
    ):
        before = counted(url)
        report_folder = Path(folder) / route
        run([str(Path(sys.executable).parent / "aiperf"), "profile", "--model", model, "--url", url,
             "--endpoint-type", route, "--streaming", "--request-count", str(REQUESTS), "--concurrency", "1",
             "--input-file", str(data), "--custom-dataset-type", "single_turn", "--tokenizer", folder, *limit,
             "--ui", "none", "--artifact-dir", str(report_folder)])  # fmt: skip
        server = since(url, before)
        report = json.loads((report_folder / "profile_export_aiperf.json").read_text())
        assert report["request_count"]["avg"] == REQUESTS == server["requests"], report["request_count"]
        assert not report.get("error_request_count"), report["error_request_count"]
        # Outputs as aiperf tokenizes them itself. Of a chat it sees the words, not the template around them: there
        # the prompt's tokens are those that our `usage` told it.
        prompt = "usage_prompt_tokens" if route == "chat" else "input_sequence_length"
        theirs = {"prompt": report[prompt]["sum"], "output": report["output_sequence_length"]["sum"]}
        assert theirs == {name: server[name] for name in theirs}, (theirs, server)
        print(f"- {route}: {REQUESTS} streamed requests, 0 failures, {server['output']} tokens on both sides")
