"""`llama-index-llms-openai-like`: chat, stream, completion, tool call, structured output."""

import sys

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Person(BaseModel):
    """A person."""

    age: int


def get_weather(city: str) -> str:
    """The weather in a city."""
    return city


options = {"model": "any", "api_base": sys.argv[1] + "/v1", "api_key": "-", "temperature": 0.0, "max_tokens": 40}
chat = OpenAILike(is_chat_model=True, is_function_calling_model=True, **options)
question = [ChatMessage(role="user", content="Name three colours.")]
answer = chat.chat(question).message.content
assert answer
print("- chat")
assert "".join(chunk.delta or "" for chunk in chat.stream_chat(question)) == answer
print("- stream_chat, the same text")
plain = OpenAILike(is_chat_model=False, **options)
text = plain.complete("The capital of France is").text
assert text
assert "".join(chunk.delta or "" for chunk in plain.stream_complete("The capital of France is")) == text
print("- complete and stream_complete, the same text")
tool = FunctionTool.from_defaults(get_weather)
called = chat.chat_with_tools([tool], user_msg="How is the weather in Paris?", tool_required=True)
calls = chat.get_tool_calls_from_response(called)
assert [call.tool_name for call in calls] == ["get_weather"], called
assert isinstance(calls[0].tool_kwargs["city"], str)
print("- tool call")
person = chat.as_structured_llm(Person).chat([ChatMessage(role="user", content="Ann is 34 years old.")]).raw
assert isinstance(person, Person), person
print("- structured output")
