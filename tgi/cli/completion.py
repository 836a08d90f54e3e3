"""`tgi completion`: the script that lets a shell complete commands, flags, models and names of values."""

from __future__ import annotations

import click

from tgi.cli.options import SettingsCommand

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_TGI_COMPLETE"  # click's name: set by the scripts, read by `tgi` itself
SUMMARY = """Print the completion script of a shell.

It completes commands, flags, the ids of models on this machine, and names of values. Where the script goes:

\b
bash: echo 'eval "$(tgi completion bash)"' >> ~/.bashrc
zsh:  echo 'eval "$(tgi completion zsh)"' >> ~/.zshrc
fish: tgi completion fish > ~/.config/fish/completions/tgi.fish
"""


def script(shell: str) -> str:
    """The script for one of SHELLS."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    from tgi.cli.main import tgi_group  # noqa: PLC0415  (it names this module)

    kind = get_completion_class(shell)
    assert kind is not None
    return kind(tgi_group(), {}, "tgi", VARIABLE).source()


def _run(shell: str) -> None:
    click.echo(script(shell))


completion = SettingsCommand(
    "completion", params=[click.Argument(["shell"], type=click.Choice(SHELLS), metavar="SHELL")],
    callback=_run, help=SUMMARY, examples=('eval "$(tgi completion bash)"', "tgi completion fish | source"),
)  # fmt: skip
