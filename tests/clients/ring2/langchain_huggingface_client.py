"""`langchain-huggingface`: text generation and its stream; chat, stream, tool call, structured output."""

import sys

from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint

SCHEMA = {"title": "person", "type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


def get_weather(city: str) -> str:
    """The weather in a city."""
    return city


model = HuggingFaceEndpoint(
    endpoint_url=sys.argv[1], max_new_tokens=40, seed=1, return_full_text=False, task="text-generation"
)
answer = model.invoke("The capital of France is")
assert answer
print("- invoke")
assert "".join(model.stream("The capital of France is")) == answer
print("- stream, the same text")
# It takes the temperature from the endpoint, whose default is 0.8, and no seed: nearly greedy, for the same text twice.
steady = HuggingFaceEndpoint(endpoint_url=sys.argv[1], temperature=0.001, task="text-generation")
chat = ChatHuggingFace(llm=steady, model_id="any", temperature=0.001, max_tokens=40)
words = chat.invoke("Name three colours.").content
assert words
assert "".join(chunk.content for chunk in chat.stream("Name three colours.")) == words
print("- chat and its stream, the same text")
called = chat.bind_tools([get_weather], tool_choice="get_weather").invoke("How is the weather in Paris?")
assert [call["name"] for call in called.tool_calls] == ["get_weather"], called
print("- tool call")
told = chat.with_structured_output(SCHEMA, method="json_schema").invoke("Ann is 34 years old.")
assert isinstance(told["age"], int), told
print("- structured output")
