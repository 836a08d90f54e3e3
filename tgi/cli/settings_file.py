"""`tgi.toml`: settings under the names of their flags, from the current folder, then from the user's configuration.

The current folder's file wins over the user's; both lose against the environment and the command line.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from tgi.cli.console import nearest
from tgi.errors import ConfigError

NAME = "tgi.toml"
SOURCES = "tgi.settings_files"  # in a context's `meta`: setting -> file


class SettingsFileError(ConfigError):
    """A file that cannot be used. Exit code 10 (spec/reliability.md section 6)."""

    exit_code = 10


def places() -> list[Path]:
    """Where a file is looked for, the strongest first."""
    import platformdirs  # noqa: PLC0415  (only commands with settings need it)

    return [Path(NAME), Path(platformdirs.user_config_dir("tgi")) / NAME]


def load(options: Mapping[str, click.Option], files: Iterable[Path]) -> tuple[dict[str, Any], dict[str, Path]]:
    """The values of the files, and which file each is from. `options` are all settings there are, by name.

    Raises: SettingsFileError naming the line, or the key and what it may have meant.
    """
    values: dict[str, Any] = {}
    sources: dict[str, Path] = {}
    for file in files:
        for key, value in _read(file).items():
            name = key.replace("-", "_")
            if name not in options:
                match = nearest(name, options)
                flags = match.replace("_", "-") if match else ""
                raise SettingsFileError(f"`{file}`: unknown setting `{key}`",
                                        hint=f"did you mean `{flags}`?" if match else "see `tgi serve --help`: "
                                        "settings are named as the flags are, without the hyphens before")  # fmt: skip
            if isinstance(value, dict) or (isinstance(value, list) and not options[name].multiple):
                raise SettingsFileError(f"`{file}`: `{key}` must be one value. Given: {value}",
                                        hint=f"write `{key} = ...`, outside of any [table]")  # fmt: skip
            values.setdefault(name, _as_typed(options[name], value))
            sources.setdefault(name, file)
    return values, sources


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except tomllib.TOMLDecodeError as error:
        fault = f"{str(error)[:1].lower()}{str(error)[1:]}"
        hint = 'correct that line; a setting is written as `model-id = "owner/name"`'
        raise SettingsFileError(f"`{file}` is no TOML: {fault}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise SettingsFileError(f"`{file}` is not in UTF-8", hint="save it in UTF-8") from error
    except OSError as error:
        raise SettingsFileError(f"`{file}` cannot be read: {error.strerror}", hint="check its rights, or move it away"
                                ) from error  # fmt: skip


def _as_typed(option: click.Option, value: Any) -> Any:
    """A value as on the command line; click then checks it. A list stays one, a boolean too."""
    if isinstance(value, list):
        return [str(item) for item in value]
    if option.multiple:
        return [str(value)]
    return value if isinstance(value, bool) else str(value)
