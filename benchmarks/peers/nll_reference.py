"""Log-probabilities of a text in float32, by transformers: `python nll_reference.py MODEL IDS.json OUT.json`.

MODEL is a GGUF file, dequantised, or a checkpoint's folder; IDS holds windows of token ids. Runs in the converter's
environment.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    """Write one list a window: the log-probability of each id but the first."""
    path, windows = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    where, extra = (str(path.parent), {"gguf_file": path.name}) if path.is_file() else (str(path), {})
    model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, **extra).eval()
    found = []
    with torch.inference_mode():
        for ids in windows:
            column = torch.tensor(ids)
            scores = model(column[None]).logits[0, :-1].log_softmax(-1)
            found.append(scores.gather(1, column[1:, None])[:, 0].tolist())
    Path(sys.argv[3]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
