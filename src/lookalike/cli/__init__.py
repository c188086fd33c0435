"""The command line: parse and show; no logic, and no torch before it is needed.

A file for each command; `COMMANDS` has them in the order in which `lookalike --help` shows them.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from lookalike import __version__
from lookalike.cli.doctor import doctor
from lookalike.cli.embed import embed
from lookalike.cli.evaluate import evaluate
from lookalike.cli.export import export
from lookalike.cli.improve import improve
from lookalike.cli.plan import plan
from lookalike.cli.quickstart import quickstart
from lookalike.cli.report import report
from lookalike.cli.search import search
from lookalike.cli.settings_command import SettingsCommand
from lookalike.cli.train import train
from lookalike.errors import LookalikeError

COMMANDS = (quickstart, train, evaluate, improve, embed, search, report, export, doctor, plan)

app = typer.Typer(
    name="lookalike",
    help="Train image-embedding models from a list of labelled images, and put them to work.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in COMMANDS:
    takes_settings = command in (train, doctor, plan)
    app.command(cls=SettingsCommand if takes_settings else None)(command)


def main() -> None:
    """Run the program; a user's mistake is one line on stderr and exit code 2."""
    from lookalike.launch import end_with_launcher

    end_with_launcher()
    try:
        app()
    except LookalikeError as error:
        _report(error)
        _leave(error.exit_code)
    except RuntimeError:
        # A worker loses its peers when one of them ends with an error: that one has spoken.
        if not _peers_ended():
            raise
        _leave(1)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)


def _leave(code: int) -> NoReturn:
    """End the process; a worker at once.

    After an error its group is still open (`World.__exit__` says why). Python would tear down the
    threads of that group in the midst of their work, which now and then aborts the process.
    """
    from lookalike.launch import in_worker

    if in_worker():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _peers_ended() -> bool:
    from lookalike.launch import in_worker, somebody_said

    return in_worker() and somebody_said()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lookalike {__version__}")
        raise typer.Exit


_WITHOUT_ANSWER = ("train", "quickstart")
"""Commands whose lines are all that they print; the others keep stdout for an answer."""


@app.callback()
def _program(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    from lookalike import log

    log.keep_stdout(context.invoked_subcommand not in _WITHOUT_ANSWER)


def _report(error: LookalikeError) -> None:
    """Say it once, whichever workers found it."""
    from lookalike.launch import WorkersFailed, first_to_say

    message = str(error)
    if isinstance(error, WorkersFailed) or not first_to_say(message):
        return
    sys.stderr.write(f"error: {message}\n" if "\n" not in message else f"error:\n{message}\n")
