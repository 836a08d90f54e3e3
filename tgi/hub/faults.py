"""Turns whatever the hub's library raises into a ModelError that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tgi.errors import ModelError
from tgi.hub.files import NoSuchModel
from tgi.hub.wheel import DISK_FULL, disk_full

# The base class of every error of the HTTP library below the hub's, whichever library that is.
HTTP_ERROR: type[Exception] = next(base for base in HfHubHTTPError.__bases__ if base is not OSError)

_LOGIN = "set HF_TOKEN or run `hf auth login`"


@contextmanager
def hub_errors(repository: str, revision: str | None, cache: Path, endpoint: str | None,
               token: str | None) -> Iterator[None]:  # fmt: skip
    """Say in our words what went wrong in the body.

    Raises: ModelError with exit code 12 (not found), 13 (gated or not authorised), 14 (network) or 15 (disk full).
    """
    named = f"`{repository}`" + (f" (revision `{revision}`)" if revision else "")
    page = f"{endpoint or constants.ENDPOINT}/{repository}"
    try:
        yield
    except ModelError:
        raise
    except GatedRepoError as error:
        raise ModelError(f"{named} is gated: its owner grants access",
                         hint=f"accept the terms on {page}, then {_LOGIN}", exit_code=13) from error  # fmt: skip
    except HfHubHTTPError as error:
        raise _of_answer(named, page, token, error) from error
    except HFValidationError as error:
        raise NoSuchModel(f"{named} is neither a path here nor a valid hub id",
                          hint="a hub id looks like `owner/name`; check the spelling",
                          exit_code=12) from error  # fmt: skip
    except OfflineModeIsEnabled as error:
        raise NoSuchModel(f"{named} is not in the cache `{cache}`, and HF_HUB_OFFLINE forbids to ask the hub",
                          hint="unset HF_HUB_OFFLINE once to download it, or give a local folder or .gguf file",
                          exit_code=14) from error  # fmt: skip
    except (OSError, RuntimeError, ValueError, HTTP_ERROR) as error:
        raise _of_machine(named, cache, error) from error


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error of the hub's library is about; None for one without an answer."""
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status


def first_line(error: BaseException) -> str:
    """What an error says, in short."""
    return next((line for line in str(error).splitlines() if line.strip()), "") or type(error).__name__


def _of_answer(named: str, page: str, token: str | None, error: HfHubHTTPError) -> ModelError:
    status = status_of(error)
    code = _header(error, "X-Error-Code")
    if isinstance(error, RevisionNotFoundError):
        return ModelError(f"{named} has no such revision on the hub",
                          hint=f"check `--revision` against the branches and tags on {page}", exit_code=12)  # fmt: skip
    if status in (401, 403) and not (code == "RepoNotFound" and status == 401):
        if token:
            return ModelError(f"the hub refuses your token for {named} (status {status})",
                              hint=f"check that it may read {page}; {_LOGIN} with another one",
                              exit_code=13)  # fmt: skip
        return NoSuchModel(f"{named} is private, or does not exist: the hub asks who you are (status {status})",
                           hint=f"check the spelling; for a private model, see {page}, and {_LOGIN}",
                           exit_code=13)  # fmt: skip
    if isinstance(error, RepositoryNotFoundError):
        return NoSuchModel(f"{named} is neither a path here nor on the hub",
                           hint="check the spelling; a private model needs HF_TOKEN or `hf auth login`",
                           exit_code=12)  # fmt: skip
    if status == 404:
        return ModelError(f"{named} lacks a file that its own list names: {first_line(error)}",
                          hint="try again: the repository may have changed meanwhile", exit_code=12)  # fmt: skip
    busy = "it limits how often it may be asked (429)" if status == 429 else f"it answers with status {status}"
    return ModelError(f"{named} could not be fetched from the hub: {busy}",
                      hint="try again later: what is here already is kept", exit_code=14)  # fmt: skip


def _of_machine(named: str, cache: Path, error: Exception) -> ModelError:
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return disk_full(cache)
    if isinstance(error, OSError) and error.errno is not None and error.filename:
        return ModelError(f"`{error.filename}` cannot be written: {error.strerror}",
                          hint="check the folder's permissions, or name another one with --huggingface-hub-cache",
                          exit_code=1)  # fmt: skip
    return NoSuchModel(f"{named} is not in the cache, and the hub cannot be reached: {first_line(error)}",
                       hint="check the network connection, or give a local folder or .gguf file",
                       exit_code=14)  # fmt: skip


def _header(error: HfHubHTTPError, name: str) -> str | None:
    response: Any = getattr(error, "response", None)
    value: str | None = response.headers.get(name) if response is not None else None
    return value
