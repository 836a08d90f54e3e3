"""`lm-eval`, `local-completions`: log-likelihoods through `echo` and `logprobs`, beside transformers' own.

The reference runs in tgi's interpreter (`transformer_scores.py`): transformers on the same weights, dequantised.
"""

import json
import subprocess
import sys
from pathlib import Path

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI
from tokenizers import Tokenizer

TEXTS = [("The capital of France is", " Paris."), ("Water boils at a hundred", " degrees"), ("Once upon a", " time")]

reference = json.loads(
    subprocess.run(
        [sys.argv[2], str(Path(__file__).parent / "transformer_scores.py"), json.dumps(TEXTS)],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()[-1]
)  # fmt: skip


class Model(LocalCompletionsAPI):
    """Tokenizes as the server does; nothing is fetched from a hub."""

    def tok_encode(self, string, **_):
        """Token ids of one text, or of several."""
        one = isinstance(string, str)
        encoded = [TOKENIZER.encode(text).ids for text in ([string] if one else string)]
        return encoded[0] if one else encoded


TOKENIZER = Tokenizer.from_str(reference["tokenizer"])
model = Model(base_url=sys.argv[1] + "/v1/completions", model="any", tokenizer_backend=None, tokenized_requests=True)
model.tokenizer, model.tokenized_requests = TOKENIZER, True  # without a backend it would ask for texts
requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(TEXTS)]
scores = model.loglikelihood(requests, disable_tqdm=True)
worst = 0.0
for (logprob, greedy), (expected, expected_greedy, count) in zip(scores, reference["scores"], strict=True):
    worst = max(worst, abs(logprob - expected) / count)
    assert greedy == expected_greedy
assert worst < 1e-4, worst
print(f"- loglikelihood of {len(TEXTS)} continuations, within {worst:.1e} nats a token of transformers")
