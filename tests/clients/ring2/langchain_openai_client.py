"""`langchain-openai`: chat, stream, tool call, structured output."""

import sys

from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Person(BaseModel):
    """A person."""

    age: int


def get_weather(city: str) -> str:
    """The weather in a city."""
    return city


model = ChatOpenAI(model="any", base_url=sys.argv[1] + "/v1", api_key="-", temperature=0, max_tokens=60)
answer = model.invoke("Name three colours.")
assert answer.content
assert answer.usage_metadata["output_tokens"] > 0
print("- invoke")
assert "".join(chunk.content for chunk in model.stream("Name three colours.")) == answer.content
print("- stream, the same text")
called = model.bind_tools([get_weather], tool_choice="get_weather").invoke("How is the weather in Paris?")
assert [call["name"] for call in called.tool_calls] == ["get_weather"], called
print("- tool call")
assert isinstance(model.with_structured_output(Person).invoke("Ann is 34 years old."), Person)
print("- structured output")
