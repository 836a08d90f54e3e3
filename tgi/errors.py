"""The exceptions tgi raises on purpose.

TgiError
├── ConfigError               a setting or a combination of settings is wrong            exit 1 (usage: 2, by click)
├── ModelError                a model cannot be found, read or run here                  exit `exit_code`
├── EngineGone                the engine process is dead; recovery decides what follows
└── RequestError              one request is refused or failed; carries its HTTP answer
    ├── ValidationError       422 validation
    │   └── InvalidGrammar
    ├── Overloaded            429 overloaded
    ├── TemplateError         422 template_error
    ├── ToolError             422 tool_error
    ├── GenerationError       424 generation
    ├── IncompleteGeneration  500 incomplete_generation
    ├── Unavailable           503 the engine is not there (starting, recovering too long, failed)
    └── ServerError           what `tgi.Client` was told, and has no name above
        ├── BadRequestError, ShardNotReadyError, ShardTimeoutError, NotFoundError, RateLimitExceededError
        └── NotSupportedError, UnknownError

`OverloadedError` and `IncompleteGenerationError` are the names that TGI's old Python client had for two of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self


class TgiError(Exception):
    """Anything tgi reports on purpose: a message for people, and an optional next step."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(TgiError):
    """A setting, or a combination of settings, that cannot work. Exit code 1, as TGI's `ArgumentValidation`."""


class ModelError(TgiError):
    """A model that cannot be found, read or run here.

    `exit_code` refines 1 as spec/reliability.md section 6 lists: 12 not found, 13 gated, 14 network, 15 disk full,
    16 corrupt files, 17 out of memory, 18 unsupported architecture or format.
    """

    def __init__(self, message: str, *, hint: str | None = None, exit_code: int = 1) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class EngineGone(TgiError):
    """The engine process ended or its socket closed."""


class RequestError(TgiError):
    """One request that is refused or failed.

    `status` is the HTTP status, `error_type` TGI's machine-readable name, `str(error)` the text shown to the client;
    where that `quotes_client`, it is for nobody else's eyes, the log's least of all.
    """

    status = 500
    error_type = "internal"
    quotes_client = False

    @classmethod
    def told(cls, message: str) -> Self:
        """The error in a server's own words, as its client meets it."""
        error = cls.__new__(cls, message)
        TgiError.__init__(error, message)
        return error


class ValidationError(RequestError):
    """A bad parameter, length or value: the client must change the request."""

    status = 422
    error_type = "validation"

    def __init__(self, message: str) -> None:
        super().__init__(f"Input validation error: {message}")


class InvalidGrammar(ValidationError):
    """A grammar that cannot be used: the message names the place."""

    quotes_client = True


class Overloaded(RequestError):
    """No permit is left; the client should retry after `retry_after_s` seconds."""

    status = 429
    error_type = "overloaded"
    retry_after_s = 1.0

    def __init__(self, retry_after_s: float = 1.0) -> None:
        super().__init__("Model is overloaded")
        self.retry_after_s = retry_after_s


class TemplateError(RequestError):
    """The chat template is missing or failed to render."""

    status = 422
    error_type = "template_error"
    quotes_client = True

    def __init__(self, message: str) -> None:
        super().__init__(f"Template error: {message}")


class ToolError(RequestError):
    """The tools of a chat request cannot be used as asked."""

    status = 422
    error_type = "tool_error"
    quotes_client = True

    def __init__(self, message: str) -> None:
        super().__init__(f"Tool error: {message}")


class GenerationError(RequestError):
    """The engine failed this request and only this request."""

    status = 424
    error_type = "generation"

    def __init__(self, cause: str) -> None:
        super().__init__(f"Request failed during generation: {cause}")


class IncompleteGeneration(RequestError):
    """A stream of tokens ended without a finish reason: a bug of ours."""

    status = 500
    error_type = "incomplete_generation"

    def __init__(self) -> None:
        super().__init__("Incomplete generation")


class Unavailable(RequestError):
    """The engine is not there to take the request; `retry_after_s` estimates when it will be."""

    status = 503
    error_type = "healthcheck"

    def __init__(self, message: str = "unhealthy", retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServerError(RequestError):
    """What a server told `tgi.Client`."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class BadRequestError(ServerError):
    """400: the request could not be read."""

    status = 400


class ShardNotReadyError(ServerError):
    """403 or 424: the model is not ready."""

    status = 424


class ShardTimeoutError(ServerError):
    """504: the model took too long."""

    status = 504


class NotFoundError(ServerError):
    """404: there is no such route or model."""

    status = 404


class RateLimitExceededError(ServerError):
    """429 without `error_type`: a proxy before the server refuses more requests."""

    status = 429


class NotSupportedError(ServerError):
    """A model that cannot be used in this way."""

    def __init__(self, model_id: str) -> None:
        super().__init__(f"Model `{model_id}` is not available for inference with this client.")


class UnknownError(ServerError):
    """Anything else."""


OverloadedError = Overloaded
IncompleteGenerationError = IncompleteGeneration
_TOLD_TYPES: Mapping[str, type[RequestError]] = {
    "generation": GenerationError, "incomplete_generation": IncompleteGeneration,
    "incomplete_generation_stream": IncompleteGeneration, "overloaded": Overloaded, "validation": ValidationError,
}  # fmt: skip
_TOLD_STATUSES: Mapping[int, type[RequestError]] = {
    400: BadRequestError, 403: ShardNotReadyError, 404: NotFoundError, 424: ShardNotReadyError,
    429: RateLimitExceededError, 504: ShardTimeoutError,
}  # fmt: skip


def parse_error(status_code: int, payload: Mapping[str, str]) -> RequestError:
    """The exception for an answer that is an error: by its `error_type`, else by its status."""
    kind = _TOLD_TYPES.get(payload.get("error_type", "")) or _TOLD_STATUSES.get(status_code, UnknownError)
    return kind.told(str(payload.get("error", "no reason given")))
