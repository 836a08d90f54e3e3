"""Makes a float16 safetensors checkpoint of a GGUF file: `python derive.py FILE.gguf FOLDER`.

transformers dequantises the blocks; the tokenizer comes from the file as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def derive(source: Path, target: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write `target`: config.json, model.safetensors and the tokenizer's files."""
    where, name = str(source.parent), source.name
    model = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.float32)
    model.to(dtype).save_pretrained(str(target))
    AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(str(target))


if __name__ == "__main__":
    derive(Path(sys.argv[1]), Path(sys.argv[2]))
