"""`text-generation`, TGI's own client: generate, stream, chat."""

import sys

from text_generation import Client

client = Client(sys.argv[1], timeout=120)
answer = client.generate("The capital of France is", max_new_tokens=6, decoder_input_details=True, top_n_tokens=2)
assert answer.details.generated_tokens == 6
assert answer.details.prefill[0].logprob is None
assert len(answer.details.tokens) == 6
print("- generate with details")
text = "".join(event.token.text for event in client.generate_stream("The capital of France is", max_new_tokens=6))
assert text == answer.generated_text, (text, answer.generated_text)
print("- generate_stream, the same text")
chat = client.chat(messages=[{"role": "user", "content": "Name a colour."}], max_tokens=8, temperature=0.0)
assert chat.choices[0].message.content
print("- chat without stream")
