"""Arguments and output of `lookalike run`."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.errors import ConfigError


def run(
    workflow: Annotated[
        str | None, typer.Argument(metavar="[workflow.yaml]", help="A file of connected nodes.")
    ] = None,
    only: Annotated[str | None, typer.Option(metavar="NODE", help="Run this node alone.")] = None,
    again: Annotated[
        str | None, typer.Option(metavar="NODE", help="Run it even if nothing changed.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the file, and say what would run.")
    ] = False,
    example: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Write an example with its images to a folder."),
    ] = None,
) -> None:
    """Run a workflow: commands connected in one YAML file.

    Nodes whose inputs and settings did not change are not run again. Prints a line for each node on
    stdout: name, state, places of its outputs.
    """
    if (workflow is None) == (example is None):
        raise ConfigError("give a workflow.yaml, or --example DIR for one to begin with")
    if example is not None:
        from lookalike.workflow.example_workflow import write_example

        typer.echo(write_example(example))
        return
    assert workflow is not None
    from lookalike.workflow.run_workflow import run_workflow

    found = run_workflow(workflow, only=only, again=again, dry_run=dry_run)
    for node in found.nodes:
        details = [node.why] if dry_run or node.did in ("held back", "failed") else []
        words = [node.node, node.did, *details, *node.outputs.values()]
        typer.echo("\t".join(words))
    if (failure := found.failure()) is not None:
        raise failure
