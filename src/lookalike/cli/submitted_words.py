"""`lookalike.submit`: a command is parsed as the program parses it before it is sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.main import get_command

from lookalike.cli.command_with_settings import SettingsCommand
from lookalike.cli.embed_command import embed
from lookalike.cli.evaluate_command import evaluate
from lookalike.cli.train_command import train
from lookalike.errors import ConfigError
from lookalike.jobs.submit import send

_PARSED = {"train": train, "embed": embed, "evaluate": evaluate}


def submit(
    *request: str,
    on: str,
    resources: str | None = None,
    dry_run: bool = False,
    wait: bool = False,
    write: Callable[[str], None] = print,
    pause: float = 5.0,
    **changes: Any,
) -> str:
    """Send a training, a workflow, or another command to a cluster.

    Args:
        request: a configuration file and `key=value`s, the file of a workflow, or the words of a
            command: `"embed", "oss://shop/runs/shoes", "oss://shop/photos.txt", "-o",
            "oss://shop/photos.parquet"`.
        on: "dlc", "kubernetes" or "slurm".
        resources: a YAML file with the fields of `lookalike.jobs.resources.Resources`.
        dry_run: send nothing.
        wait: follow its log until it ends.
        write: called with each line of that log.
        pause: seconds between two looks at the job.
        changes: fields of the resources, which count before the file's.

    Returns:
        The id of the job; with `dry_run`, the exact request as text.

    Raises:
        LookalikeError: the request is wrong, a word of a command too, or it is refused; with
            `wait`, the job failed.
    """
    if request and request[0] in _PARSED:
        check_words(request)
    return send(
        request, on=on, resources=resources, dry_run=dry_run, wait=wait, write=write, pause=pause,
        **changes,
    )  # fmt: skip


def check_words(request: Sequence[str]) -> None:
    """Check a command and its words as it does: a mistake in them would show after the queue.

    Raises:
        ConfigError: there is one.
    """
    command, *words = request
    given = _parsed(command, words)
    if command == "embed":
        from lookalike.index.store_address import check_vectors_place

        check_vectors_place(given["output"])
    elif command == "evaluate":
        from lookalike.commands.evaluate import check_inputs
        from lookalike.evaluation.metric_tables import check_name

        for table in (given["per_class"], given["per_query"]):
            check_name(table)
        names = ("data", "query", "gallery", "embeddings", "labels", "split")
        check_inputs(given["models"] or (), *(given[name] for name in names))


def _parsed(command: str, words: Sequence[str]) -> dict[str, Any]:
    """Values of the arguments and options of a command, by name."""
    program = typer.Typer(add_completion=False)
    program.command(cls=SettingsCommand if command == "train" else None)(_PARSED[command])
    try:
        found = get_command(program).make_context(command, list(words)).params
    except Exception as error:
        # Click's, or since typer 0.26 its copy: `UsageError` and those that extend it.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        raise ConfigError(f"{command}: {message()}") from None
    return dict(found)
