"""Commands as processes of their own, found again through files after the studio has ended.

.lookalike-studio/N/request.yaml    the request of a training, or one to check or plan
.lookalike-studio/N/process.json    process, its start, its command, what it works on
.lookalike-studio/N/output.txt      stdout and stderr
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lookalike import storage
from lookalike.config.config import Config
from lookalike.errors import RunError
from lookalike.storage.file_lock import locked

FOLDER = ".lookalike-studio"
_TAIL = 64 * 1024
_PROGRAM = (sys.executable, "-P", "-m", "lookalike")  # modules are not taken from the folder
_ERROR = re.compile(r"^error:\s*((?:.+\n?)+)", re.M)


TRAIN = "train"
QUESTION = "a request of the form"
"""Subject of the processes that check or plan a request which is not started yet."""


MISSING, WORKING, FAILED, DONE = "missing", "working", "failed", "done"


@dataclass(frozen=True)
class WorkState:
    """State of what a process is to make; `text` is its last progress, or its error."""

    state: str
    text: str = ""


@dataclass(frozen=True)
class StudioProcess:
    """A command that the studio started.

    Attributes:
        start: of the process, which later ones of its number do not share.
        command: the first word, as `train`.
        subject: what it works on: the directory of a training's run.
        began: seconds since 1970.
    """

    folder: Path
    pid: int
    start: str
    command: str
    subject: str
    began: float

    def is_alive(self) -> bool:
        """True while the process, and no later one of the same number, runs."""
        return bool(self.start) and _start_of(self.pid) == self.start

    def output(self) -> str:
        """The end of what it has printed, without secrets."""
        return tail(self.folder / "output.txt")

    def last_line(self) -> str:
        """The last line that it has printed."""
        return self.output().strip().rpartition("\n")[2]

    def error(self) -> str:
        """The error with which it ended; "" while it runs, or if it printed none."""
        found = _ERROR.findall(self.output())
        return found[-1].strip() if found and not self.is_alive() else ""


def state_of(process: StudioProcess | None) -> WorkState:
    """State of what the process was to make."""
    if process is None:
        return WorkState(MISSING)
    if process.is_alive():
        return WorkState(WORKING, process.last_line())
    error = process.error()
    return WorkState(FAILED if error else DONE, error)


class RunProcesses:
    """The commands of a folder; all state is in its files."""

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER
        self._children: list[subprocess.Popen[bytes]] = []
        self._read: dict[tuple[Path, int], StudioProcess] = {}

    def start(self, config: Config, *, resume: bool = False) -> StudioProcess:
        """Start a training, and return at once.

        Raises:
            RunError: a training into this directory is running, or it holds a run already.
        """
        with self.one_at_a_time():
            return self._start(config, resume)

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Keep requests of this and other studios out while a command is looked up and launched.

        Raises:
            RunError: another one has been at it for ten seconds.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        busy = "the studio is starting another command; try again"
        with locked(self.folder / ".lock", busy, error=RunError):
            yield

    def _start(self, config: Config, resume: bool) -> StudioProcess:
        output = str(config.run.output)
        if self.running(TRAIN, output) is not None:
            raise RunError(f"{output}: a training into this directory is running; stop it first")
        if not resume and not storage.is_remote(output) and (Path(output) / "config.yaml").exists():
            raise RunError(f"{output} holds a run already; resume it, or choose another directory")

        more = ["--resume"] if resume else []
        return self.launch(output, lambda folder: [TRAIN, write_request(folder, config), *more])

    def ask(self, command: str, config: Config, *more: str) -> StudioProcess:
        """Begin to answer a question about a request; an earlier question is given up."""
        with self.one_at_a_time():
            with suppress(RunError):
                self.stop(command, QUESTION, signal.SIGTERM)
            return self.launch(
                QUESTION, lambda folder: [command, write_request(folder, config), *more]
            )

    def launch(self, subject: str, words: Callable[[Path], Sequence[str]]) -> StudioProcess:
        """Start a `lookalike` command, and return at once.

        It works in the folder of the studio, at which relative paths begin.

        Args:
            subject: what it works on, by which it is found again.
            words: the arguments, of the folder for its files.
        """
        folder = self._new_folder()
        arguments = list(words(folder))
        with (folder / "output.txt").open("wb") as printed:
            child = subprocess.Popen(
                [*_PROGRAM, *arguments],
                cwd=self.folder.parent,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children.append(child)
        process = StudioProcess(
            folder, child.pid, _start_of(child.pid), arguments[0], subject, time.time()
        )
        record = {
            "pid": child.pid, "start": process.start, "command": process.command,
            "subject": subject, "began": process.began,
        }  # fmt: skip
        storage.write_text(folder / "process.json", json.dumps(record) + "\n")
        return process

    def stop(self, command: str, subject: str, number: signal.Signals) -> None:
        """Ask a process to end; a training writes a checkpoint first.

        Raises:
            RunError: the studio has started none that runs there.
        """
        try:
            if (found := self.running(command, subject)) is not None:
                return os.kill(found.pid, number)
        except ProcessLookupError:
            pass  # it has just ended
        raise RunError(
            "nothing that this studio started is running here; what a command line started is "
            "stopped there, with Ctrl+C"
        )

    def all(self, command: str = TRAIN) -> list[StudioProcess]:
        """Every process of a command that was started, the newest first."""
        self._children = [child for child in self._children if child.poll() is None]
        read: dict[tuple[Path, int], StudioProcess] = {}
        for file in self.folder.glob("*/process.json"):
            try:
                key = file, file.stat().st_mtime_ns
                read[key] = self._read.get(key) or _process_of(file)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # of a studio that was killed while it wrote
        self._read = read
        found = [process for process in read.values() if process.command == command]
        return sorted(found, key=lambda process: -process.began)

    def newest(self, command: str, subject: str) -> StudioProcess | None:
        """The newest process of a command on a subject."""
        return next((each for each in self.all(command) if each.subject == subject), None)

    def running(self, command: str, subject: str) -> StudioProcess | None:
        """The newest process of a command on a subject, while it runs."""
        found = self.newest(command, subject)
        return found if found is not None and found.is_alive() else None

    def _new_folder(self) -> Path:
        number = 1 + max(
            (int(each.name) for each in self.folder.glob("[0-9]*") if each.name.isdecimal()),
            default=0,
        )
        while True:
            folder = self.folder / str(number)
            try:
                folder.mkdir(parents=True, mode=0o700)
            except FileExistsError:  # of another studio on the same folder
                number += 1
                continue
            return folder


def write_request(folder: Path, config: Config) -> str:
    """Write a request to the folder of its process; the place of the file."""
    file = folder / "request.yaml"
    storage.write_text(file, config.to_yaml(complete=False))
    os.chmod(file, 0o600)  # its addresses may be signed
    return str(file)


def _process_of(file: Path) -> StudioProcess:
    record = json.loads(file.read_text(encoding="utf-8"))
    return StudioProcess(
        file.parent, int(record["pid"]), str(record["start"]), str(record.get("command", TRAIN)),
        str(record.get("subject") or record["run"]), float(record["began"]),
    )  # fmt: skip


def ask(words: Sequence[str], seconds: float) -> tuple[int, str]:
    """Exit code and the end of the output of a `lookalike` command that answers soon.

    Raises:
        RunError: it took longer.
    """
    try:
        done = subprocess.run(
            [*_PROGRAM, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RunError(
            f"lookalike {words[0]} took longer than {seconds:g} s; run it on the command line"
        ) from None
    return done.returncode, storage.without_secrets(done.stdout[-_TAIL:].decode("utf-8", "replace"))


def tail(file: Path, size: int = 16 * 1024) -> str:
    """The last lines of a file without secrets; "" if it is not there."""
    try:
        with file.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, end - size))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return storage.without_secrets(text.partition("\n")[2] if end > size else text)


def _start_of(pid: int) -> str:
    """Start of a process, which later ones of its number do not share; "" if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
        shown = subprocess.run(
            ["ps", "-o", "lstart=,stat=", "-p", str(pid)], capture_output=True, text=True
        ).stdout.strip()
        return "" if not shown or shown.split()[-1].startswith("Z") else shown.rsplit(" ", 1)[0]
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
