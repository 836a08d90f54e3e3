"""The fields of `tgi.config` as click options and environment names, and back: a command line as a `Config`.

Flags win over the environment, which wins over defaults. An empty variable counts as unset. Underscores are accepted
where flags have hyphens.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from tgi.cli import settings_file
from tgi.cli.models import complete_model
from tgi.config import Batching, Config, Flag, Http, Limits, Model, Telemetry, flags
from tgi.errors import ConfigError

SECTIONS: tuple[type, ...] = (Model, Limits, Batching, Http, Telemetry)
TITLES = {Model: "Model", Limits: "Limits", Batching: "Batching", Http: "Network", Telemetry: "Telemetry"}
NO_EFFECT = "Accepted for the sake of scripts written for TGI; changes nothing here"
NOT_YET = "Not available yet: refused with an explanation"
_NO_BREAK_SPACE, _NO_BREAK_HYPHEN = "\xa0", "\u2011"

LOG_LEVELS = {-1: "warn", 1: "debug", 2: "debug,tgi=debug"}  # of `-q`, `-v` and `-vv`

Names = tuple[str, ...] | None


class Setting(click.Option):
    """A field of `tgi.config` on the command line, or one of its aliases."""

    def __init__(self, field: dataclasses.Field[Any], details: Flag, annotation: Any, title: str) -> None:
        self.details = details
        self.title = NOT_YET if details.refuse else NO_EFFECT if details.note else title
        kind, is_flag = _click_type(annotation, details)
        name = f"--{_hyphens(field.name)}"
        declaration = f"{name}/--no-{_hyphens(field.name)}" if is_flag else name
        super().__init__(
            [declaration, *([details.short] if details.short else []), field.name],
            type=kind,
            is_flag=is_flag or None,
            default=field.default,
            multiple=details.multiple,
            envvar=details.env or field.name.upper(),
            help=details.help,
            metavar=None if is_flag else _metavar(annotation, details, kind),
            hidden=details.hidden,
            shell_complete=complete_model if field.name == "model_id" else None,
        )

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The variable's value; None if it is unset, empty, or evidently meant for another program."""
        value = super().resolve_envvar_value(ctx)
        if value is None or not value.strip():
            return None
        if self.details.env_accepts and not self.details.env_accepts(value):
            return None
        return value

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """As on the command line; a repeatable flag gets the variable's one value."""
        value = self.resolve_envvar_value(ctx)
        return (value,) if value is not None and self.multiple else value

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Names on the left; meaning, default and variable on the right."""
        if self.hidden:
            return None
        long = max((name for name in self.opts if name.startswith("--")), key=len)
        names = [*(name for name in self.opts if len(name) == 2), long, *self.details.aliases]
        if self.is_flag and self.default:
            names = [long, *self.secondary_opts]
        left = ", ".join(names) + (f" {self.metavar}" if self.metavar else "")
        choices = f"one of {', '.join(self.details.choices)}" if self.details.choices else ""
        meaning = self.details.help + (f" ({choices})" if choices else "")
        default = default_text(self.default) or ("" if "default:" in self.details.help else "none")
        facts = [f"default: {default}" if default else "", f"env: {self.envvar}"]
        return left, f"{meaning}  [{'; '.join(_unbroken(fact) for fact in facts if fact)}]"


class Alias(Setting):
    """Another name of a setting, with a variable of its own; giving both is an error, as in TGI."""

    def __init__(self, field: dataclasses.Field[Any], details: Flag, annotation: Any, name: str) -> None:
        super().__init__(field, details, annotation, "")
        self.name, self.opts, self.secondary_opts = f"alias_of_{field.name}", [name], []
        self.target = field.name
        variable = name.strip("-").replace("-", "_").upper()
        self.envvar = None if variable == (details.env or field.name.upper()) else variable
        self.hidden = True
        self.default = None


class SettingsCommand(click.Command):
    """A command whose help groups its settings, fits 80 columns and ends with examples."""

    def __init__(self, name: str, *, examples: Sequence[str] = (), **details: Any) -> None:
        settings = {"token_normalize_func": _hyphens, "help_option_names": ["-h", "--help"], "max_content_width": 80}
        super().__init__(name, context_settings=settings, **details)
        self.examples = examples
        self.params.append(debug_option())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, after `tgi.toml`; an error then knows its command, which click's parser forgets."""
        own = {parameter.name for parameter in self.params if isinstance(parameter, Setting)}
        if own and not ctx.resilient_parsing and not {"-h", "--help"} & set(args):
            known = {option.name or "": option for option in all_options() if not isinstance(option, Alias)}
            values, ctx.meta[settings_file.SOURCES] = settings_file.load(known, settings_file.places())
            ctx.default_map = {name: value for name, value in values.items() if name in own}
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One block of definitions a title, in order of appearance; the empty promises last."""
        blocks: dict[str, list[tuple[str, str]]] = {}
        for parameter in (p for p in self.get_params(ctx) if isinstance(p, click.Option)):
            record = parameter.get_help_record(ctx)
            if record:
                blocks.setdefault(getattr(parameter, "title", "Other"), []).append(record)
        last = ("Other", NO_EFFECT, NOT_YET)
        for title in sorted(blocks, key=lambda title: last.index(title) if title in last else -1):
            with formatter.section(title):
                formatter.write_dl(blocks[title], col_max=26)

    def get_help(self, ctx: click.Context) -> str:
        """The help text, with the characters back that were kept out of line breaks."""
        return super().get_help(ctx).replace(_NO_BREAK_SPACE, " ").replace(_NO_BREAK_HYPHEN, "-")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, ready to be copied."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"  {example}\n")


def debug_option() -> click.Option:
    """`--debug`; `tgi.cli.main` looks for it on the command line itself, so that usage errors have tracebacks too."""
    return click.Option(["--debug"], is_flag=True, expose_value=False, help="show tracebacks of errors")


VERBOSITY = "tgi.verbosity"


def verbosity_options() -> list[click.Option]:
    """`-v`, `-vv` and `-q`, for commands that have more, or less, to tell."""

    def louder(ctx: click.Context, parameter: click.Parameter, value: int) -> None:
        ctx.meta[VERBOSITY] = ctx.meta.get(VERBOSITY, 0) + value

    def quiet(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value and ctx.meta.get(VERBOSITY, 0) > 0:
            raise click.UsageError("`--quiet` and `--verbose` exclude each other", ctx)
        if value:
            ctx.meta[VERBOSITY] = -1

    return [
        click.Option(["-v", "--verbose"], count=True, expose_value=False, callback=louder, is_eager=True,
                     help="tell why; -vv: what other libraries say too"),
        click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=quiet,
                     help="tell nothing but warnings and errors"),
    ]  # fmt: skip


def verbosity(ctx: click.Context) -> int:
    """-1 for `-q`, 0, 1 for `-v`, 2 for `-vv`."""
    value: int = ctx.meta.get(VERBOSITY, 0)
    return value


def options(section: type, only: Names = None) -> list[click.Option]:
    """The options of one settings class of `tgi.config`, aliases included; `only` names the fields wanted."""
    annotations = typing.get_type_hints(section)
    found: list[click.Option] = []
    for field, details in flags(section):
        if only is None or field.name in only:
            found.append(Setting(field, details, annotations[field.name], TITLES[section]))
            found += [Alias(field, details, annotations[field.name], alias) for alias in details.aliases]
    return found


def all_options() -> list[click.Option]:
    """Every setting there is, in order of definition."""
    return [option for section in SECTIONS for option in options(section)]


def default_text(default: Any) -> str:
    """A default value for people; empty where there is none."""
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    return str(default)


def read_config(ctx: click.Context, **overrides: Any) -> tuple[Config, list[str]]:
    """The settings that a parsed command line and its environment add up to.

    `overrides` replace fields by name, for commands that take a setting in another form.

    Returns: the settings, and warnings about flags that were given but change nothing.
    Raises:  ConfigError where values contradict each other, or ask for what does not exist.
    """
    merge_aliases(ctx)
    warnings = [
        f"`{_longest(option)}` changes nothing: {option.details.note}"
        for option in _settings(ctx)
        if option.details.note and _given(ctx, option)
    ]
    values = {**ctx.params, **overrides}
    if verbosity(ctx) and ctx.get_parameter_source("log_level") is ParameterSource.DEFAULT:
        values["log_level"] = LOG_LEVELS[verbosity(ctx)]
    if values.get("log_format") == "json":
        values["json_output"] = True
    sections = {}
    try:
        for section in SECTIONS:
            names = [field.name for field, _ in flags(section) if field.name in values]
            sections[section.__name__.lower()] = section(**{name: values[name] for name in names})
        return Config(**sections), warnings
    except ConfigError as error:
        raise _blame_environment(ctx, error) from error


def merge_aliases(ctx: click.Context) -> None:
    """Give the value of an alias to its setting. Raises: ConfigError where both are given."""
    by_name = {option.name: option for option in _settings(ctx)}
    for alias in [option for option in by_name.values() if isinstance(option, Alias)]:
        if _given(ctx, alias):
            target = by_name[alias.target]
            if _given(ctx, target):
                raise ConfigError(
                    f"`{_longest(target)}` and `{_longest(alias)}` are the same setting and cannot both be given",
                    hint=f"keep `{_longest(target)}` (`{target.envvar}` in the environment)",
                )
            ctx.params[alias.target] = ctx.params[alias.name or ""]
            ctx.set_parameter_source(alias.target, _source(ctx, alias))


def _blame_environment(ctx: click.Context, error: ConfigError) -> ConfigError:
    """The same error, saying which of the flags it names came from the environment, where nobody would look."""
    named = [
        f"`{option.envvar}`"
        for option in _settings(ctx)
        if f"`{_longest(option)}" in error.message and _source(ctx, option) is ParameterSource.ENVIRONMENT
    ]
    if not named:
        return error
    suffix = f"{' and '.join(named)} {'is' if len(named) == 1 else 'are'} set in the environment"
    return ConfigError(error.message, hint=f"{error.hint} ({suffix})" if error.hint else suffix)


def _settings(ctx: click.Context) -> Iterator[Setting]:
    return (parameter for parameter in ctx.command.params if isinstance(parameter, Setting))


def _source(ctx: click.Context, option: Setting) -> ParameterSource:
    return ctx.get_parameter_source(option.name or "") or ParameterSource.DEFAULT


def _given(ctx: click.Context, option: Setting) -> bool:
    return _source(ctx, option) not in (ParameterSource.DEFAULT, ParameterSource.PROMPT)


def _longest(option: Setting) -> str:
    return max(option.opts, key=len)


def _unbroken(text: str) -> str:
    """`text` as one word for the wrapping of lines: a variable's name cut in two cannot be searched for."""
    return text.replace(" ", _NO_BREAK_SPACE).replace("-", _NO_BREAK_HYPHEN)


def _hyphens(name: str) -> str:
    return name.replace("_", "-")


def _click_type(annotation: Any, details: Flag) -> tuple[click.ParamType[Any], bool]:
    """The click type of a field's annotation, and whether it is a flag without a value."""
    if details.choices:
        return click.Choice(details.choices), False
    if annotation is bool:
        return click.BOOL, True
    plain: dict[Any, click.ParamType[Any]] = {
        bool: click.BOOL, int: click.INT, float: click.FLOAT, str: click.STRING, Path: click.Path(path_type=Path),
    }  # fmt: skip
    return plain[_bare(annotation)], False


def _bare(annotation: Any) -> Any:
    """`int` for `int | None`, `str` for `tuple[str, ...]`."""
    arguments = [a for a in typing.get_args(annotation) if a not in (types.NoneType, Ellipsis)]
    return arguments[0] if arguments else annotation


def _metavar(annotation: Any, details: Flag, kind: click.ParamType[Any]) -> str:
    if details.choices:
        return "NAME"
    names: dict[Any, str] = {bool: "true|false", int: "N", float: "X", Path: "PATH", str: "TEXT"}
    return details.unit.upper() or names[_bare(annotation)]
