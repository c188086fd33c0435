"""Arguments and output of `lookalike submit`."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.errors import ConfigError

Engine = Annotated[str, typer.Option("--on", help="dlc, kubernetes or slurm.")]
ResourcesFile = Annotated[
    str | None, typer.Option("--resources", help="YAML file with resources; flags count before it.")
]


def submit(
    request: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="config.yaml [key=value ...] | workflow.yaml | -- COMMAND ...",
            help="A training, a workflow; or after -- embed or evaluate with its arguments.",
        ),
    ] = None,
    on: Engine = "",
    resources: ResourcesFile = None,
    name: Annotated[str | None, typer.Option(help="Name of the job.")] = None,
    nodes: Annotated[int | None, typer.Option(help="Machines.")] = None,
    workers: Annotated[int | None, typer.Option(help="Workers of each machine.")] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs of each machine.")] = None,
    gpu_type: Annotated[str | None, typer.Option(help="Type of the GPUs.")] = None,
    machine: Annotated[str | None, typer.Option(help="Machine type.")] = None,
    cpus: Annotated[int | None, typer.Option(help="Cores of each machine.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory of each machine, as 64GiB.")] = None,
    image: Annotated[str | None, typer.Option(help="Container image with lookalike.")] = None,
    time_limit: Annotated[str | None, typer.Option(help="Longest time, as 12h.")] = None,
    priority: Annotated[
        str | None, typer.Option(help="1 to 9 on DLC; a class on Kubernetes; a QOS on Slurm.")
    ] = None,
    mount: Annotated[
        list[str] | None, typer.Option(help="SOURCE:/PATH or SOURCE:/PATH:ro; again for more.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for the job; again for more.")
    ] = None,
    folder: Annotated[
        str | None, typer.Option(help="Folder of a workflow's file and results in the job.")
    ] = None,
    retries: Annotated[int | None, typer.Option(help="Starts after a failure.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the exact request and send nothing.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the log; the exit code is that of the job.")
    ] = False,
) -> None:
    """Run a training, workflow or other command on a cluster.

    Prints the id of the job on stdout. All resources: docs/submit.md.
    """
    from lookalike import log
    from lookalike.cli.submitted_words import submit as command
    from lookalike.jobs.submit import follow_job

    log.start()
    answer = command(
        *(request or []),
        on=required_engine(on),
        resources=resources,
        dry_run=dry_run,
        name=name, nodes=nodes, workers=workers, gpus=gpus, gpu_type=gpu_type, machine=machine,
        cpus=cpus, memory=memory, image=image, time_limit=time_limit,
        priority=int(priority) if priority is not None and priority.isdecimal() else priority,
        mounts=mount, environment=_variables(env or []), retries=retries, folder=folder,
    )  # fmt: skip
    typer.echo(answer, nl=not answer.endswith("\n"))
    if wait and not dry_run:
        follow_job(answer, on, resources, write=lambda line: typer.echo(line, err=True))


def required_engine(on: str) -> str:
    """The engine that was given; a ConfigError without one."""
    if not on:
        raise ConfigError("give the engine: --on dlc, kubernetes or slurm")
    return on


def _variables(given: list[str]) -> dict[str, str]:
    found = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--env {name}: write NAME=VALUE")
        found[name] = value
    return found
