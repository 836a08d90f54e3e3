"""`langchain-huggingface`: text generation and its stream."""

import sys

from langchain_huggingface import HuggingFaceEndpoint

model = HuggingFaceEndpoint(
    endpoint_url=sys.argv[1], max_new_tokens=8, seed=1, return_full_text=False, task="text-generation"
)
answer = model.invoke("The capital of France is")
assert answer
print("- invoke")
assert "".join(model.stream("The capital of France is")) == answer
print("- stream, the same text")
