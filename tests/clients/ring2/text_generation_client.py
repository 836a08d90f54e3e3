"""`text-generation`, TGI's own client: generate, stream, chat, tool call, structured output; sync and async."""

import asyncio
import json
import sys

from text_generation import AsyncClient, Client
from text_generation.errors import ValidationError
from text_generation.types import Grammar, GrammarType, Message, Tool

SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
WEATHER = {"name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}  # fmt: skip
PROMPT = "The capital of France is"
client = Client(sys.argv[1], timeout=120)
answer = client.generate(PROMPT, max_new_tokens=6, decoder_input_details=True, top_n_tokens=2)
assert answer.details.generated_tokens == 6
assert answer.details.prefill[0].logprob is None
assert len(answer.details.tokens) == 6
print("- generate with details")
text = "".join(event.token.text for event in client.generate_stream(PROMPT, max_new_tokens=6))
assert text == answer.generated_text, (text, answer.generated_text)
print("- generate_stream, the same text")
messages = [Message(role="user", content="Name a colour.")]
chat = client.chat(messages=messages, max_tokens=8, temperature=0.0)
assert chat.choices[0].message.content
print("- chat without stream")
called = client.chat(
    messages, tools=[Tool(type="function", function=WEATHER)], tool_choice="get_weather", max_tokens=60
)
assert called.choices[0].message.tool_calls[0]["function"]["name"] == "get_weather"
print("- tool call")
person = client.generate("Ann is 34: ", max_new_tokens=30, grammar=Grammar(type=GrammarType.Json, value=SCHEMA))
assert isinstance(json.loads(person.generated_text)["age"], int)
print("- structured output")
try:
    client.generate(PROMPT, max_new_tokens=0)
except ValidationError:
    print("- ValidationError")
again = asyncio.run(AsyncClient(sys.argv[1], timeout=120).generate(PROMPT, max_new_tokens=6))
assert again.generated_text == answer.generated_text
print("- AsyncClient.generate, the same text")
