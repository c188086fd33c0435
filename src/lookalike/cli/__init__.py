"""The command line: a file for each command; torch is imported by the commands that need it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any, NoReturn

import typer

from lookalike import __version__
from lookalike.cli.backbones_command import backbones
from lookalike.cli.command_with_settings import SettingsCommand
from lookalike.cli.config_command import config
from lookalike.cli.doctor_command import doctor
from lookalike.cli.embed_command import embed
from lookalike.cli.evaluate_command import evaluate
from lookalike.cli.export_command import export
from lookalike.cli.improve_command import improve
from lookalike.cli.jobs_command import jobs
from lookalike.cli.plan_command import plan
from lookalike.cli.quickstart_command import quickstart
from lookalike.cli.report_command import report
from lookalike.cli.run_command import run
from lookalike.cli.search_command import search
from lookalike.cli.serve_command import serve
from lookalike.cli.studio_command import studio
from lookalike.cli.submit_command import submit
from lookalike.cli.train_command import train
from lookalike.cli.tune_command import tune
from lookalike.distributed import signals
from lookalike.errors import ConsoleError, LookalikeError

COMMANDS = (  # in the order of `lookalike --help`
    quickstart,
    train,
    tune,
    evaluate,
    improve,
    embed,
    search,
    serve,
    report,
    export,
    run,
    studio,
    doctor,
    config,
    plan,
    backbones,
    submit,
    jobs,
)

app = typer.Typer(
    name="lookalike",
    help="Train image-embedding models from a list of labelled images, and put them to work.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in COMMANDS:
    takes_settings = command in (train, tune, doctor, config, plan)
    app.command(cls=SettingsCommand if takes_settings else None)(command)


def main() -> None:
    """Run the program; a user's mistake is one line on stderr and exit code 2."""
    from lookalike.distributed.launch import end_with_launcher

    end_with_launcher()
    with _streams():
        code = _run()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except ConsoleError as error:
                code = code or _report(error)
        _leave(code)


def _run() -> int:
    """The exit code of the command."""
    try:
        app()
    except LookalikeError as error:
        return _report(error)
    except OSError as error:
        if (refusal := LookalikeError.of_system(error)) is None:
            raise
        return _report(refusal)
    except RuntimeError as error:
        # A worker loses its peers when one of them ends; that one, or the launcher, reports why.
        if not _peers_ended(error):
            raise
        return 1
    except SystemExit as end:  # how typer ends
        if end.code != 130 and not signals.was_pressed():
            return end.code if isinstance(end.code, int) else 0
    except BaseException as error:
        # Some libraries wrap a KeyboardInterrupt.
        if not isinstance(error, KeyboardInterrupt) and not signals.was_pressed():
            raise
    return _report_interrupt()


def _report_interrupt() -> int:
    """Report Ctrl-C, once for all workers."""
    from lookalike.distributed.launch import in_worker

    if not in_worker():
        sys.stderr.write("stopped\n")
    return 130


def _report(error: LookalikeError) -> int:
    """Print an error, and give its exit code."""
    with suppress(ConsoleError):  # the console is closed
        _print_once(error)
    return error.exit_code


@contextmanager
def _streams() -> Iterator[None]:
    """Standard streams that exist and take every text; see `log.ConsoleStream`."""
    from lookalike.log import ConsoleStream

    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed by the caller: keep its number from the next file
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    with open(
        os.devnull, "w", encoding="utf-8"
    ) as nowhere:  # Python has no stream for a closed one
        streams: list[Any] = [before[0] or nowhere, before[1] or nowhere]
        guarded: list[Any] = [
            ConsoleStream("stdout", streams[0]),
            ConsoleStream("stderr", streams[1]),
        ]
        sys.stdout, sys.stderr = guarded
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def _leave(code: int) -> NoReturn:
    """End the process; a worker without Python's finalisation.

    Threads of its process group may still run (after an error the group stays open, see
    `World.__exit__`; after success DDP's reducer holds it), and finalisation beside them sometimes
    aborts the process.
    """
    from lookalike.distributed.launch import in_worker

    if in_worker():
        os._exit(code)
    sys.exit(code)


def _peers_ended(error: RuntimeError) -> bool:
    """True if a worker failed because another one ended."""
    from lookalike.distributed.launch import in_worker, is_failure_reported, lost_peers

    return in_worker() and (is_failure_reported() or lost_peers(error))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lookalike {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def _print_once(error: LookalikeError) -> None:
    """Print an error once for all workers."""
    from lookalike.distributed.launch import WorkersFailed, is_first_report

    message = str(error)
    printed = isinstance(error, WorkersFailed) and error.is_reported
    if printed or not message or not is_first_report(message):
        return
    if isinstance(error, ConsoleError) and error.is_closed:
        return
    sys.stderr.write(f"error: {message}\n" if "\n" not in message else f"error:\n{message}\n")
