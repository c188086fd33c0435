"""A job: a command of lookalike with its files, and the shell text that starts it on a machine."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Any

from lookalike import storage
from lookalike.config.config import FLAGS, Config, keys
from lookalike.config.setting_paths import INPUTS, paths_of
from lookalike.config.yaml_lines import read_mapping
from lookalike.errors import ConfigError
from lookalike.jobs.resources import Resources
from lookalike.storage.local_files import read_text
from lookalike.workflow.workflow_graph import Node, Workflow

COMMANDS = ("train", "embed", "evaluate")
"""Commands that can be submitted."""

_WRITTEN = ("run.output", "-o", "--output", "--per-class", "--per-query", "folder")

NO_PLACES = frozenset(
    {
        *("--workers", "--threads", "--cache-size", "--requests", "--device"),
        *("--k", "--precision", "--format", "--split", "--label-separator", "--hierarchy"),
        *("--path-column", "--label-column", "--query-path-column", "--query-label-column"),
        *("--backbone", "--loss", "--epochs", "--recipe"),
    }
)
"""Options of COMMANDS whose values are no paths."""

_END = "LOOKALIKE_FILE"
START_END = "LOOKALIKE_START"
_ENDS = {_END, START_END}
"""Lines that end a text in the shell, and that no file of a job may have."""

_NO_REQUEST = (
    "holds neither sections nor nodes; give a config.yaml, which names the list as data.train, or "
    "a workflow.yaml"
)

_OUTPUTS = ("run.output", "output")
_ROOTS = ("data.image_root", "image_root")


@dataclass(frozen=True)
class JobRequest:
    """A command that runs elsewhere.

    Attributes:
        name: of the job: a-z, 0-9 and -.
        command: one of COMMANDS, or `run` for a workflow.
        arguments: words after it; a name of `files` stands for the place of that file.
        files: texts that the job takes along, by name, to the byte.
        workers: of a machine, by the request.
        places: settings or arguments, and the paths or URIs that the job reads and writes.
        folder: where `files` are put and stay; None for a temporary one.
        starts_workers: the command starts the workers of its trainings itself.
    """

    name: str
    command: str
    arguments: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    workers: int = 1
    places: tuple[tuple[str, str], ...] = ()
    folder: str | None = None
    starts_workers: bool = False

    @property
    def resumes(self) -> bool:
        """True if another start resumes where the last one ended."""
        return self.command in ("train", "embed", "run")

    def workers_of_machine(self, resources: Resources) -> int:
        """Workers to start: asked for, one for each GPU, or those of the request."""
        return 1 if self.starts_workers else resources.workers or resources.gpus or self.workers


def training_job(file: str, overrides: Sequence[str], resources: Resources) -> JobRequest:
    """The job that trains by a configuration file, taken along unchanged, and `key=value`s.

    Raises:
        ConfigError: the configuration is wrong, incomplete, or holds a secret.
    """
    text = _file_text(file)
    config = Config.load(file, overrides)
    for key in ("data.train", "run.output"):
        if config.get(key) is None:
            raise ConfigError(f"{file}: a job needs {key}; add it to the file or as {key}=...")
    if config.without_secrets() != config or storage.without_secrets(text) != text:
        raise _secret_in(file)
    return JobRequest(
        name=resources.name or _name_of(str(config.run.output), "lookalike"),
        command="train",
        arguments=("config.yaml", *overrides, "--resume"),
        files={"config.yaml": text},
        workers=config.run.workers,
        places=tuple(_setting_places(config)),
    )


def _setting_places(config: Config) -> Iterator[tuple[str, str]]:
    """Settings that are paths or URIs of what a training reads and writes."""
    yield "run.output", str(config.run.output)
    for key in INPUTS:
        for path in paths_of(key, config.get(key)):
            yield key, path


def command_job(words: Sequence[str], resources: Resources) -> JobRequest:
    """The job that runs another command as it would be typed.

    Raises:
        ConfigError: it cannot be submitted, or an argument holds a secret.
    """
    command, *arguments = words
    if command not in COMMANDS:
        raise ConfigError(f"{command} cannot be submitted; {', '.join(COMMANDS)} can")
    for word in arguments:
        if storage.unsigned(word) != word or storage.without_secrets(word) != word:
            raise ConfigError(
                f"{storage.public(word)}: was given with a signature or a password, which everyone "
                "who can list jobs could read; give the plain address"
            )
    if command == "train" and "--resume" not in arguments:  # as for every training
        arguments.append("--resume")
    files: dict[str, str] = {}
    sent: list[str] = []
    for word in arguments:
        option, equals, value = word.partition("=")
        named = equals and (option.startswith("--") or option in keys())
        file = value if named else word
        if file.endswith((".yaml", ".yml")) and not storage.is_remote(file):
            name = PurePosixPath(file).name
            if name in files:
                raise ConfigError(f"{word}: another file of that name is part of the job")
            files[name] = _file_text(file)
            if storage.without_secrets(files[name]) != files[name]:
                raise _secret_in(file)
            sent.append(f"{option}={name}" if named else name)
        else:
            sent.append(word)
    places = list(_argument_places(arguments))
    if command == "train":
        places += _setting_places(_training_config(arguments))
    return JobRequest(
        name=resources.name or f"lookalike-{command}",
        command=command,
        arguments=tuple(sent),
        files=files,
        places=tuple(places),
    )


def _training_config(arguments: Sequence[str]) -> Config:
    """The request of `lookalike train ARGUMENTS`.

    Raises:
        ConfigError: it is wrong, or has no output: a training list may be that of a run there.
    """
    flags: dict[str, Any] = {}
    files, settings = list[str](), list[str]()
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if not option.startswith("--"):
            (settings if equals else files).append(word)
        elif key := FLAGS.get(option[2:]):
            text = value if equals else next(words, "")
            number = text.isdecimal() and keys()[key][0].startswith("int")
            flags.setdefault(key, []).append(int(text) if number else text)
    if len(files) > 1:
        raise ConfigError(f"more than one configuration file: {', '.join(files)}")
    given = {key: each if len(each) > 1 else each[0] for key, each in flags.items()}
    config = Config.load(files[0] if files else None, settings, given)
    if config.run.output is None:
        raise ConfigError("a job needs run.output; add it to the file or as --output PLACE")
    return config


def _argument_places(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Arguments that are paths or URIs: those beside options, and values of other options."""
    option = ""
    for word in arguments:
        if word.startswith("-") and len(word) > 1:
            option, equals, value = word.partition("=")
            if equals and option not in NO_PLACES:
                yield option, value
            option = "" if equals else option
            continue
        if option not in NO_PLACES:
            key, equals, value = word.partition("=")
            if not equals:
                yield option or "argument", word
            elif key == "run.output":
                yield key, value
            else:
                for path in paths_of(key, value) if key in INPUTS else ():
                    yield key, path
        option = ""


def is_workflow(file: str) -> bool:
    """True for a file whose parts are nodes, not sections of a configuration."""
    tree, _ = read_mapping(_file_text(file), file, otherwise=_NO_REQUEST)
    return any(isinstance(part, dict) and "uses" in part for part in tree.values())


def workflow_job(file: str, resources: Resources) -> JobRequest:
    """The job that runs a workflow in `resources.folder`, or, without it, where its file lies.

    Raises:
        ConfigError: the workflow has faults or holds a secret, or the resources do not fit it.
    """
    text = _file_text(file)
    path = storage.path_of(file).absolute()
    workflow = Workflow.parse(text, path, file)
    places = tuple(_places(workflow))
    signed = any(storage.unsigned(place) != place for _, place in places)
    if signed or storage.without_secrets(text) != text:
        raise _secret_in(file)
    if resources.nodes > 1 or resources.workers is not None:
        raise ConfigError(
            f"{file}: a workflow runs on one machine and starts workers itself; leave out nodes "
            "and workers, and set run.workers in its training"
        )
    folder = resources.folder
    name = path.name if folder is not None else str(path)
    return JobRequest(
        name=resources.name or _name_of(path.stem, "workflow"),
        command="run",
        arguments=(name,),
        files={name: text} if folder is not None else {},
        folder=folder,
        starts_workers=True,
        places=(("folder", folder or str(path.parent)), *places),
    )


def _places(workflow: Workflow) -> Iterator[tuple[str, str]]:
    """Absolute paths and addresses in the settings; relative ones lie in the folder."""
    for node in workflow.nodes.values():
        for key in _keys(node):
            value = node.settings.get(key)
            for place in [value] if isinstance(value, str) else list(value or ()):
                if storage.is_remote(place) or PurePosixPath(place).is_absolute():
                    yield f"{node.name}.{key}", place


def _keys(node: Node) -> list[str]:
    inputs = [port.key for name, port in node.kind.inputs.items() if name not in node.inputs]
    return ["list"] if node.uses == "read" else [*inputs, *_OUTPUTS, *_ROOTS]


def _secret_in(file: str) -> ConfigError:
    return ConfigError(
        f"{file}: holds an address with a signature or a password, which everyone who can list "
        "jobs could read; write the plain address, and give the job a role or its environment "
        "credentials"
    )


def _file_text(file: str) -> str:
    """The text of a file that a job takes along.

    Raises:
        ConfigError: it cannot be read, or the shell could not carry it.
    """
    text = read_text(file)
    if _ENDS & set(text.split("\n")) or "\0" in text:
        raise ConfigError(f"{file}: has a line {' or '.join(sorted(_ENDS))}, or a NUL; remove it")
    return text


def _name_of(place: str, default: str) -> str:
    """A name for a job from the last part of a place."""
    last = storage.public(place).rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9]+", "-", last).strip("-")[:50].strip("-") or default


def check_places(job: JobRequest, resources: Resources) -> None:
    """Check that a container reaches what the job reads and writes.

    Raises:
        ConfigError: a path lies neither in object storage nor below a mount, or cannot be written.
    """
    if job.command == "run" and job.folder is None:
        raise ConfigError(
            "a workflow in a container needs a folder that outlives it, for its results: --folder "
            "/PATH, below a mount"
        )
    mounts = {mount.path.rstrip("/"): mount for mount in resources.mounts}
    for key, place in job.places:
        if storage.is_remote(place) or place in job.files or PurePosixPath(place).name in job.files:
            continue
        around = [path for path in mounts if f"{normpath(place)}/".startswith(f"{path}/")]
        if not around:
            raise ConfigError(
                f"{key}={place}: is in no mount of the container "
                f"({', '.join(mounts) or 'there are none'}); give an address of object storage, or "
                "a path below a mount (--mount SOURCE:/PATH)"
            )
        inner = mounts[max(around, key=len)]
        if inner.read_only and (key in _WRITTEN or key.endswith(".output")):
            raise ConfigError(
                f"{key}={place}: the mount {inner.path} is read-only; mount it for writing, "
                f"{inner.source}:{inner.path}"
            )


def without_none(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping without the keys that have no value."""
    return {key: value for key, value in tree.items() if value is not None}


def start_script(job: JobRequest, resources: Resources, torchrun: Sequence[str]) -> str:
    """Shell text that starts a job on one machine of its own.

    Args:
        torchrun: its options as shell words; none of them for a job of one worker.
    """
    lines = ["set -eu", 'folder="$(mktemp -d)"']
    if job.folder is not None:
        lines[1:] = [f"folder={shlex.quote(job.folder)}", 'mkdir -p "$folder"']
    for name, text in job.files.items():
        end = "" if text.endswith("\n") or not text else "\n"
        lines.append(f"cat > \"$folder\"/{shlex.quote(name)} <<'{_END}'\n{text}{end}{_END}")
    # torchrun kills workers this long after the request to stop.
    lines.append(f"export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={max(1, resources.grace_seconds - 10)}")
    words = [
        f'"$folder"/{shlex.quote(word)}' if word in job.files else shlex.quote(word)
        for word in job.arguments
    ]
    launcher = ["-m torch.distributed.run", *torchrun] if torchrun else []
    command = [shlex.quote(resources.python), *launcher, "-m", "lookalike", job.command, *words]
    lines.append(f"exec {' '.join(command)}")
    return "\n".join(lines) + "\n"
