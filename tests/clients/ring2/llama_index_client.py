"""`llama-index-llms-openai-like`: chat, stream, completion."""

import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

options = {"model": "any", "api_base": sys.argv[1] + "/v1", "api_key": "-", "temperature": 0.0, "max_tokens": 16}
chat = OpenAILike(is_chat_model=True, **options)
question = [ChatMessage(role="user", content="Name three colours.")]
answer = chat.chat(question).message.content
assert answer
print("- chat")
assert "".join(chunk.delta or "" for chunk in chat.stream_chat(question)) == answer
print("- stream_chat, the same text")
assert OpenAILike(is_chat_model=False, **options).complete("The capital of France is").text
print("- complete")
