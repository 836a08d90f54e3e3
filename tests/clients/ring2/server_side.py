"""What the server knows: its model's name, its tokenizer, and the tokens it counted. For the clients' scripts."""

import json
import subprocess
import urllib.request
from pathlib import Path

COUNTED = {
    "requests": "tgi_request_success",
    "prompt": "tgi_request_input_length_sum",
    "output": "tgi_request_generated_tokens_sum",
}


def model_name(url):
    """What the server calls its model."""
    with urllib.request.urlopen(url + "/v1/models") as response:
        return json.load(response)["data"][0]["id"]


def counted(url):
    """Sequences that ended well so far, and the tokens of their prompts and outputs: what `usage` is made of."""
    with urllib.request.urlopen(url + "/metrics") as response:
        lines = response.read().decode().splitlines()
    series = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {what: int(float(series[name])) for what, name in COUNTED.items()}


def since(url, before):
    """What was counted since `before`."""
    return {what: count - before[what] for what, count in counted(url).items()}


def reference(python, texts):
    """The model's tokenizer as JSON, and transformers' scores of continuations: see `transformer_scores.py`."""
    script = Path(__file__).parent / "transformer_scores.py"
    done = subprocess.run(
        [python, str(script), json.dumps(texts)], capture_output=True, text=True, check=True
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def write_tokenizer(folder, tokenizer):
    """A folder that transformers reads a tokenizer from, so that no client fetches one from a hub."""
    Path(folder, "tokenizer.json").write_text(tokenizer)
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    Path(folder, "tokenizer_config.json").write_text(json.dumps(kind))


def run(command, limit_s=300, **options):
    """Run a client's own command. Raises: AssertionError with the end of what it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False, **options)
    assert done.returncode == 0, (done.stdout + done.stderr)[-1500:]
    return done.stdout
