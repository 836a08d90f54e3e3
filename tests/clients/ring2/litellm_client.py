"""`litellm`: chat, stream, tool call, structured output, text completion, and its typed errors."""

import json
import sys

import litellm

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}  # fmt: skip
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
common = {"model": "openai/any", "api_base": sys.argv[1] + "/v1", "api_key": "-", "temperature": 0, "max_tokens": 40}


def ask(text, **options):
    """One conversation."""
    return litellm.completion(messages=[{"role": "user", "content": text}], **common, **options)


answer = ask("Name three colours.").choices[0].message.content
assert answer
print("- completion")
assert "".join(chunk.choices[0].delta.content or "" for chunk in ask("Name three colours.", stream=True)) == answer
print("- stream, the same text")
call = ask("How is the weather in Paris?", tools=[TOOL], tool_choice="required").choices[0].message.tool_calls[0]
assert call.function.name == "get_weather"
print("- tool call")
form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
assert "age" in json.loads(ask("Ann is 34.", response_format=form).choices[0].message.content)
print("- structured output")
common["model"] = "text-completion-openai/any"
assert litellm.text_completion(prompt="The capital of France is", **common).choices[0].text
print("- text completion")
try:
    ask("x", frequency_penalty=9.0)
    raise AssertionError("a penalty of 9 was accepted")
except (litellm.BadRequestError, litellm.UnprocessableEntityError):
    print("- a refusal is typed")
