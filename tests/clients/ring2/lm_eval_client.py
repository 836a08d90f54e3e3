"""`lm-eval` by its own command, on local task files: `local-completions` beside transformers, `local-chat-completions`.

The reference runs in tgi's interpreter (`transformer_scores.py`): transformers on the same weights, dequantised.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from server_side import reference, run, write_tokenizer

TEXTS = [
    ("The capital of France is", " Paris."), ("Water boils at a hundred", " degrees"), ("Once upon a", " time"),
    ("Roses are red,", " violets are blue, and this is a longer continuation."),
    ("def add(a, b):", "\n    return a + b"),
]  # fmt: skip
QUESTIONS = ["Name two colours.", "Name three colours."]
FACTS = """task: local_facts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/facts.jsonl}}}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{context}}}}"
doc_to_target: "{{{{continuation}}}}"
target_delimiter: ""
metric_list: [{{metric: perplexity}}, {{metric: acc}}]
"""
CHATS = """task: local_questions
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/questions.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "red"
generation_kwargs: {{until: ["STOP"], max_gen_toks: 8, temperature: 0.0}}
metric_list: [{{metric: exact_match}}]
"""

url, python = sys.argv[1:]
known = reference(python, TEXTS)


def evaluate(folder, kind, route, task, *options, **model):
    """Run one task. Returns: what the server answered to each of its requests, in order."""
    arguments = ",".join(f"{name}={value}" for name, value in model.items())
    output = Path(folder) / "results"
    run([str(Path(sys.executable).parent / "lm_eval"), "run", "--model", kind,
         "--model_args", f"base_url={url}{route},model=any,{arguments}", "--tasks", task, "--include_path", folder,
         "--output_path", str(output), "--log_samples", *options],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(Path(folder) / "hub")})  # fmt: skip
    newest = max(output.rglob("samples_*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    samples = [json.loads(line) for line in newest.read_text().splitlines()]
    return [sample["resps"][0][0] for sample in sorted(samples, key=lambda sample: sample["doc_id"])]


with tempfile.TemporaryDirectory() as folder:
    write_tokenizer(folder, known["tokenizer"])
    rows = [{"context": context, "continuation": continuation} for context, continuation in TEXTS]
    Path(folder, "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path(folder, "questions.jsonl").write_text("".join(json.dumps({"question": text}) + "\n" for text in QUESTIONS))
    Path(folder, "facts.yaml").write_text(FACTS.format(folder=folder))
    Path(folder, "chats.yaml").write_text(CHATS.format(folder=folder))
    for backend in ({"tokenizer_backend": "huggingface", "tokenizer": folder}, {"tokenizer_backend": "remote"}):
        scores = evaluate(
            folder, "local-completions", "/v1/completions", "local_facts", tokenized_requests=True, **backend
        )
        worst = 0.0
        for (logprob, greedy), (expected, expected_greedy, count) in zip(scores, known["scores"], strict=True):
            worst = max(worst, abs(float(logprob) - expected) / count)
            assert (greedy == "True") == expected_greedy
        assert worst < 1e-4, worst
        name = backend["tokenizer_backend"]
        print(f"- local-completions, {name} tokenizer: loglikelihood of {len(TEXTS)} continuations of a local task, "
              f"within {worst:.1e} nats a token of transformers")  # fmt: skip
    answers = evaluate(
        folder, "local-chat-completions", "/v1/chat/completions", "local_questions", "--apply_chat_template",
        num_concurrent=1,
    )  # fmt: skip
    assert all(answers), answers
    print(f"- local-chat-completions: {len(answers)} answers of a local task")
