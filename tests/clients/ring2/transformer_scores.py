"""Log-likelihoods of continuations by transformers on the default model's weights, dequantised to float32."""

from __future__ import annotations

import json
import sys

import gguf
import torch

from tests.models.test_smollm2 import transformers_model
from tests.real_model import default_gguf
from tgi.checkpoint.gguf import GgufFile
from tgi.hub.gguf_tokenizer import build_tokenizer


def main() -> None:
    """Print the tokenizer, and for each (context, continuation) its log-likelihood, whether greedy, its length."""
    path = default_gguf()
    tokenizer = build_tokenizer(GgufFile(path)).tokenizer
    model = transformers_model(gguf.GGUFReader(path))
    scores = []
    for context, continuation in json.loads(sys.argv[1]):
        ids = tokenizer.encode(context + continuation).ids
        start = len(tokenizer.encode(context).ids)
        with torch.inference_mode():
            logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0], dim=-1)
        targets = torch.tensor(ids[start:])
        before = logprobs[start - 1 : -1]
        total = float(before.gather(-1, targets[:, None]).double().sum())
        scores.append((total, bool((before.argmax(-1) == targets).all()), len(targets)))
    print(json.dumps({"tokenizer": tokenizer.to_str(), "scores": scores}))


if __name__ == "__main__":
    main()
