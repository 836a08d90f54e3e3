"""Every error carries its exit code or its HTTP answer, in TGI's words."""

from __future__ import annotations

import pytest

from tgi import errors


@pytest.mark.parametrize(
    ("error", "status", "error_type", "text"),
    [
        (errors.ValidationError("`x` is bad"), 422, "validation", "Input validation error: `x` is bad"),
        (errors.Overloaded(), 429, "overloaded", "Model is overloaded"),
        (errors.TemplateError("no template"), 422, "template_error", "Template error: no template"),
        (errors.ToolError("no tool"), 422, "tool_error", "Tool error: no tool"),
        (errors.GenerationError("out of memory"), 424, "generation", "Request failed during generation: out of memory"),
        (errors.IncompleteGeneration(), 500, "incomplete_generation", "Incomplete generation"),
        (errors.Unavailable(), 503, "healthcheck", "unhealthy"),
    ],
)
def test_a_request_error_has_its_status_type_and_text(
    error: errors.RequestError, status: int, error_type: str, text: str
) -> None:
    assert (error.status, error.error_type, str(error)) == (status, error_type, text)


def test_every_error_is_listed_in_the_tree_of_the_module() -> None:
    assert errors.__doc__ is not None
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, Exception):
            assert name in errors.__doc__, name


def test_a_model_error_refines_the_exit_code() -> None:
    assert errors.ModelError("gone", exit_code=12).exit_code == 12
    assert errors.ModelError("gone").exit_code == 1
    assert errors.ConfigError("wrong", hint="do this").hint == "do this"


def test_overload_and_absence_say_when_to_come_back() -> None:
    assert errors.Overloaded(retry_after_s=2.5).retry_after_s == 2.5
    assert errors.Unavailable(retry_after_s=3.0).retry_after_s == 3.0
