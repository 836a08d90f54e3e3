"""`tgi` and its namesakes: a group of commands, each imported only when it is typed.

`tgi --help` must stay instant, so nothing here imports more than click.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

from tgi import __version__
from tgi.cli.console import UsageFault, nearest, report
from tgi.errors import TgiError

SERVE, USE, MODELS, HELP = "Serve", "Use", "Models", "Help"


@dataclass(frozen=True, slots=True)
class Entry:
    """A command before it is imported: what the group's help needs, and where the rest is."""

    summary: str
    heading: str
    source: str  # "module:attribute"
    hidden: bool = False


COMMANDS = {
    "serve": Entry("serve a model over HTTP", SERVE, "tgi.cli.serve:serve"),
    "launch": Entry("the same as TGI's launcher: download, serve, restart", SERVE, "tgi.cli.launch:launch"),
    "chat": Entry("talk with a model of a running server", USE, "tgi.cli.chat:chat"),
    "bench": Entry("measure a server, and its distance to the machine's limit", USE, "tgi.cli.bench:bench"),
    "download": Entry("fetch a model's files and print where they are", MODELS, "tgi.cli.download:download"),
    "download-weights": Entry("TGI's name of `download`", MODELS, "tgi.cli.download:download_weights", hidden=True),
    "cache": Entry("list, check and remove the models that are here", MODELS, "tgi.cli.cache:cache"),
    "watermark": Entry("find the watermark of generated text", MODELS, "tgi.cli.watermark:watermark"),
    "sagemaker": Entry("serve a model as SageMaker asks for it", SERVE, "tgi.cli.sagemaker:sagemaker", hidden=True),
    "print-schema": Entry("print the HTTP interface as OpenAPI", HELP, "tgi.cli.print_schema:print_schema"),
    "plan": Entry("show what a model would take of the memory", MODELS, "tgi.cli.plan:plan"),
    "doctor": Entry("check what could keep this machine from serving", HELP, "tgi.cli.doctor:doctor"),
    "config": Entry("show every setting and where it comes from", HELP, "tgi.cli.config_show:config"),
    "completion": Entry("print the completion script of a shell", HELP, "tgi.cli.completion:completion"),
    "man": Entry("print or write the manual pages", HELP, "tgi.cli.manual:man"),
    "env": Entry("show versions, machine and GPU driver, for bug reports", HELP, "tgi.cli.env:env"),
}
SERVER_COMMANDS = {
    "serve": Entry("serve a model over HTTP, as `tgi serve`", SERVE, "tgi.cli.serve:serve_positional"),
    "download-weights": Entry("fetch a model's files", MODELS, "tgi.cli.download:download_weights"),
}
NOT_YET = {
    "quantize": "serve a model that is quantized already: `tgi serve --model-id FILE.gguf`",
}
MORE = "Docs: `tgi COMMAND --help`, `tgi man COMMAND`, and /docs of a running server."
EXAMPLES = ("tgi serve --port 8080", "tgi serve --model-id ./model.gguf")


class LazyGroup(click.Group):
    """A group that knows its commands by a table and imports one when it is called."""

    def __init__(
        self, name: str, entries: dict[str, Entry], *, help: str, examples: Sequence[str], more: str = ""
    ) -> None:
        settings = {
            "help_option_names": ["-h", "--help"],
            "token_normalize_func": lambda token: token.replace("_", "-"),
            "max_content_width": 80,
        }
        super().__init__(
            name, help=help, invoke_without_command=True, context_settings=settings, callback=_show_help,
            subcommand_metavar="COMMAND [ARGS]...",
        )  # fmt: skip
        self.entries = entries
        self.examples = examples
        self.more = more
        self.params = [
            click.Option(
                ["-V", "--version"], is_flag=True, expose_value=False, is_eager=True, callback=_show_version,
                help="show the version and exit",
            ),
            click.Option(["--debug"], is_flag=True, expose_value=False, help="show tracebacks of errors"),
        ]  # fmt: skip

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands worth listing."""
        return [name for name, entry in self.entries.items() if not entry.hidden]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command, if there is one of that name."""
        entry = self.entries.get(cmd_name)
        return _load(entry) if entry else None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Bare flags are the launcher's: `tgi --model-id X` is `tgi launch --model-id X`."""
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if args and args[0].startswith("-") and args[0] not in own and "launch" in self.entries:
            args = ["launch", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command typed. Raises: UsageFault naming the nearest one, TgiError for one that is still to come."""
        name = args[0].replace("_", "-")
        if ctx.resilient_parsing and name not in self.entries:  # while a shell completes
            return None, None, []
        if name in NOT_YET:
            raise TgiError(f"`{ctx.command_path} {name}` is not available yet", hint=NOT_YET[name])
        if name not in self.entries:
            match = nearest(name, self.entries)
            see = f"see `{ctx.command_path} --help`"
            raise UsageFault(f"unknown command `{args[0]}`", hint=f"did you mean `{match}`?" if match else see)
        return name, self.get_command(ctx, name), args[1:]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands first: they are what a newcomer looks for."""
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"  {example}\n")
        if self.more:
            formatter.write(f"\n{self.more}\n")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands that begin so, without importing them, then the group's own flags."""
        named = [
            CompletionItem(name, help=entry.summary)
            for name, entry in self.entries.items()
            if name.startswith(incomplete) and not entry.hidden
        ]
        return [*named, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by heading."""
        for heading in dict.fromkeys(entry.heading for entry in self.entries.values()):
            listed = [(n, e.summary) for n, e in self.entries.items() if e.heading == heading and not e.hidden]
            with formatter.section(heading):
                formatter.write_dl(listed)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """`tgi`."""
    _run(tgi_group(), "tgi", arguments)


def tgi_group() -> LazyGroup:
    """The group of all commands."""
    help = "Serve large language models: the successor of Text Generation Inference."
    return LazyGroup("tgi", COMMANDS, help=help, examples=EXAMPLES, more=MORE)


def launcher(arguments: Sequence[str] | None = None) -> NoReturn:
    """`text-generation-launcher`: TGI's launcher, all of whose flags `tgi launch` takes."""
    _run(_load(COMMANDS["launch"]), "text-generation-launcher", arguments)


def server(arguments: Sequence[str] | None = None) -> NoReturn:
    """`text-generation-server`: TGI's model server, as far as it makes sense without its launcher."""
    name = "text-generation-server"
    examples = (f"{name} serve ./model.gguf", f"{name} download-weights HuggingFaceTB/SmolLM2-135M-Instruct")
    _run(
        LazyGroup(name, SERVER_COMMANDS, help="TGI's model server, as tgi runs it.", examples=examples), name, arguments
    )


def benchmark(arguments: Sequence[str] | None = None) -> NoReturn:
    """`text-generation-benchmark`: TGI's benchmark, all of whose flags `tgi bench` takes."""
    _run(_load(COMMANDS["bench"]), "text-generation-benchmark", arguments)


def _run(command: click.Command, name: str, arguments: Sequence[str] | None) -> NoReturn:
    """Run a command and end the process with its exit code, explaining whatever went wrong."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not os.environ.get("HF_ENDPOINT", "x").strip():
        del os.environ["HF_ENDPOINT"]  # empty is unset; the hub's library, which reads it too, takes it for an address
    try:
        result = command.main(words, prog_name=name, standalone_mode=False)
    except BrokenPipeError:
        # Whoever read our output has gone, `head` for example; Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(report(error, debug="--debug" in words))
    sys.exit(result if isinstance(result, int) else 0)


def _load(entry: Entry) -> click.Command:
    module, _, attribute = entry.source.partition(":")
    command: click.Command = getattr(importlib.import_module(module), attribute)
    return command


def _show_help() -> None:
    context = click.get_current_context()
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _show_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"{ctx.find_root().info_name} {__version__}")
        ctx.exit()
