"""What a way to compute costs in quality: the mean negative log-likelihood of texts, against exact float32 arithmetic.

    python -m benchmarks.nll MODEL [TEXT ...] [--quantize int8] [--tokens 4096] [--most 16] [--worth 0.008]

MODEL is a .gguf file or a local folder; without TEXT, the project's own documents are scored, each by its first
`--tokens` tokens. Prints a line of JSON for each text, nats a token in exact arithmetic, what the other way adds, and
the rms change of a token's log-probability, then one of all texts. A speed without this figure says nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from tgi.checkpoint import open_checkpoint
from tgi.config import Batching, Config, Limits, Model
from tgi.hub.tokenizer_files import load_encoding
from tgi.quantization import outliers
from tgi.runner.plan import Float32, Int32, RowState, StepPlan
from tgi.runner.runner import ModelRunner
from tgi.sampling import SamplingParams

CONTEXT = 512  # tokens scored together
ROOT = Path(__file__).parents[1]


def scores(path: Path, texts: list[list[int]], *, quantize: str | None = None) -> list[Float32]:
    """Log-probabilities of the tokens of each text, in chunks of CONTEXT tokens that know nothing of each other."""
    config = Config(
        model=Model(quantize=quantize),
        batching=Batching(max_batch_total_tokens=2 * CONTEXT),
        limits=Limits(max_total_tokens=CONTEXT),
    )
    runner = ModelRunner.load(open_checkpoint(path), config=config)
    return [
        np.concatenate([_score(runner, np.array(chunk, dtype=np.int32)) for chunk in _chunks(ids)]) for ids in texts
    ]


def _chunks(ids: list[int]) -> list[list[int]]:
    return [ids[start : start + CONTEXT] for start in range(0, len(ids) - CONTEXT + 1, CONTEXT)]


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
    parser.add_argument("--most", type=int, default=outliers.MOST, help="columns of a map singled out at most")
    parser.add_argument("--worth", type=float, default=outliers.WORTH, help="share of a map's error that one must cost")
    options = parser.parse_args()
    outliers.MOST, outliers.WORTH = options.most, options.worth
    tokenizer, _ = load_encoding(options.model)
    texts = {}
    for path in options.text:
        text = path.read_text(encoding="utf-8", errors="replace")
        texts[path.name] = tokenizer.encode(text, add_special_tokens=False).ids[: options.tokens]
        if len(texts[path.name]) < CONTEXT:
            parser.error(f"`{path}` has {len(texts[path.name])} tokens; a chunk is {CONTEXT}")
    exact = scores(options.model, list(texts.values()))
    served = scores(options.model, list(texts.values()), quantize=options.quantize)
    changes = [before - after for before, after in zip(exact, served, strict=True)]
    for name, score, change in zip(texts, exact, changes, strict=True):
        print(json.dumps({"text": name, "tokens": len(score), "nll_exact": round(-float(score.mean()), 5),
                          "change": round(float(change.mean()), 5), "rms": _rms(change)}))  # fmt: skip
    means = [float(change.mean()) for change in changes]
    print(json.dumps({"model": options.model.name, "quantize": options.quantize, "texts": len(means),
                      "change": round(sum(means) / len(means), 5), "least": round(min(means), 5),
                      "greatest": round(max(means), 5), "rms": _rms(np.concatenate(changes))}))  # fmt: skip


def _rms(values: Float32) -> float:
    return round(float(np.sqrt(np.square(values, dtype=np.float64).mean())), 4)


if __name__ == "__main__":
    main()
