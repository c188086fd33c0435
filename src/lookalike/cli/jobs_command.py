"""Arguments and output of `lookalike jobs`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from lookalike.cli.arguments import AsJson
from lookalike.cli.submit_command import Engine, ResourcesFile, required_engine
from lookalike.errors import ConfigError


def jobs(
    job: Annotated[str | None, typer.Argument(help="Id of one job; without it, all.")] = None,
    on: Engine = "",
    resources: ResourcesFile = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print the log of the job until it ends.")
    ] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop the job; a training saves a checkpoint.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List jobs that were submitted; follow or stop one."""
    from lookalike import log
    from lookalike.jobs import submit

    log.start()
    engine = required_engine(on)
    if job is None:
        if follow or stop:
            raise ConfigError("--follow and --stop need the id of a job: lookalike jobs ID")
        found = submit.list_jobs(engine, resources)
        if as_json:
            typer.echo(json.dumps([asdict(each) for each in found]))
        for each in () if as_json else found:
            typer.echo(f"{each.id}  {each.state:9}  {each.created}  {each.name}  {each.reason}")
        return
    if stop:
        submit.stop_job(job, engine, resources)
        return
    if follow:
        submit.follow_job(job, engine, resources, write=typer.echo)
        return
    status = submit.job_status(job, engine, resources)
    if as_json:
        typer.echo(json.dumps(asdict(status)))
    else:
        typer.echo(f"{status.state}{status.reason and f': {status.reason}'}")
