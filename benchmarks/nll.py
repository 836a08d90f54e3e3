"""What a way to compute costs in quality: the mean negative log-likelihood of a text, against exact float32 arithmetic.

    python -m benchmarks.nll MODEL [TEXT ...] [--quantize int8] [--tokens 4096]

MODEL is a .gguf file or a local folder; without TEXT, the project's own documents are scored. Prints one JSON object:
nats a token as served, in exact float32 arithmetic, and their difference. A speed without this figure says nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from tgi.checkpoint import open_checkpoint
from tgi.config import Batching, Config, Limits, Model
from tgi.runner.plan import Float32, Int32, RowState, StepPlan
from tgi.runner.runner import ModelRunner
from tgi.sampling import SamplingParams

CONTEXT = 512  # tokens scored together
ROOT = Path(__file__).parents[1]


def mean_nll(path: Path, ids: list[int], *, quantize: str | None = None, dtype: str | None = None) -> float:
    """Nats a token of `ids`, computed in chunks of CONTEXT tokens that know nothing of each other."""
    config = Config(
        model=Model(quantize=quantize, dtype=dtype),
        batching=Batching(max_batch_total_tokens=2 * CONTEXT),
        limits=Limits(max_total_tokens=CONTEXT),
    )
    runner = ModelRunner.load(open_checkpoint(path), config=config)
    scores = [
        _score(runner, np.array(ids[start : start + CONTEXT], dtype=np.int32))
        for start in range(0, len(ids) - CONTEXT + 1, CONTEXT)
    ]
    return -float(np.concatenate(scores).mean(dtype=np.float64))


def _score(runner: ModelRunner, ids: Int32) -> Float32:
    """Log-probability of every token but the first."""
    blocks = np.arange(1, -(-len(ids) // runner.block_size) + 1, dtype=np.int32)
    state = RowState(0, SamplingParams(), ids, ids[:0], top_tokens=0, prompt_logprobs=True)
    found = []
    for start in range(0, len(ids) - 1, runner.max_step_tokens):
        positions = np.arange(start, min(start + runner.max_step_tokens, len(ids) - 1), dtype=np.int32)
        count = len(positions)
        plan = StepPlan(
            input_ids=ids[positions],
            positions=positions,
            slot_mapping=blocks[positions // runner.block_size].astype(np.int64) * runner.block_size
            + positions % runner.block_size,
            query_starts=np.array([0, count], dtype=np.int32),
            context_lens=np.array([start + count], dtype=np.int32),
            block_tables=blocks[None],
            rope_variants=np.zeros(1, dtype=np.int32),
            logits_indices=np.arange(count, dtype=np.int32),
            logits_rows=np.zeros(count, dtype=np.int32),
            sample=np.zeros(count, dtype=np.bool_),
            targets=ids[positions + 1],
            started=(state,) if start == 0 else (),
            ended=(0,) if start == 0 else (),
        )
        found.append(runner.execute(plan).logprobs)
    return np.concatenate(found)


def main() -> None:
    """Score the texts in both ways, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path, nargs="*", default=[ROOT / "README.md", ROOT / "docs" / "design.md"])
    parser.add_argument("--quantize", choices=["int8"])
    parser.add_argument("--tokens", type=int, default=4096)
    options = parser.parse_args()
    folder, file = (options.model.parent, options.model.name) if options.model.is_file() else (options.model, None)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    ids = tokenizer.encode("\n".join(text.read_text(encoding="utf-8") for text in options.text))[: options.tokens]
    served = mean_nll(options.model, ids, quantize=options.quantize)
    exact = mean_nll(options.model, ids)
    print(json.dumps({
        "model": options.model.name, "quantize": options.quantize, "tokens": len(ids) // CONTEXT * (CONTEXT - 1),
        "nll": round(served, 5), "nll_exact": round(exact, 5), "change": round(served - exact, 5),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
