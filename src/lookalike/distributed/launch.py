"""Launch of several workers on this machine by torchrun, and the report of their failures."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from lookalike.distributed.machine import available, cores
from lookalike.errors import ConfigError, LookalikeError
from lookalike.log import counted


class WorkersFailed(LookalikeError):
    """The workers ended with an error; one of them has printed it if `is_reported`."""

    def __init__(self, message: str, exit_code: int, *, is_reported: bool = False) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.is_reported = is_reported


def in_worker() -> bool:
    """True in a process that torchrun started."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "LOCAL_RANK" in os.environ


def command_began() -> float:
    """`time.monotonic()` at the start of the command: of a worker's launcher, else now."""
    began = os.environ.get(_BEGAN)
    return float(began) if began and in_worker() else time.monotonic()


def is_answering() -> bool:
    """True in the process that prints the answer of the command.

    With several workers that is their launcher; under torchrun, worker 0.
    """
    return not in_worker() or (_REPORTS not in os.environ and os.environ.get("RANK", "0") == "0")


_LEAST_OF_A_WORKER = 300_000_000
"""Bytes of a worker's own that Python, torch and timm take."""

_REPORTS = "LOOKALIKE_REPORTS"  # folder of the reports of workers to their launcher
_BEGAN = "LOOKALIKE_BEGAN"  # time.monotonic(), which counts from the start of the machine
_LAUNCHER_PID = "LOOKALIKE_LAUNCHER_PID"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def is_first_report(message: str) -> bool:
    """True if no other worker of this machine has printed this message yet."""
    folder = os.environ.get(_REPORTS)
    if folder is None:
        return True
    name = hashlib.sha256(message.encode()).hexdigest()
    try:
        (Path(folder) / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # the launcher has removed the folder: better twice than never
        return True
    return True


def is_failure_reported() -> bool:
    """True if a worker of this machine has printed the error that ends the run."""
    folder = os.environ.get(_REPORTS)
    return folder is not None and any(len(path.name) == 64 for path in Path(folder).iterdir())


def report_to_launcher(name: str, text: str) -> None:
    """Write a text for the launcher of this worker, if it has one, to a file of its folder."""
    if _REPORTS in os.environ:
        (Path(os.environ[_REPORTS]) / name).write_text(text, "utf-8")


def end_with_launcher() -> None:
    """End this worker when its launcher ends, also by SIGKILL.

    torchrun gives each worker a session of its own: workers of a killed launcher would go on
    writing into the directory of the run that is resumed meanwhile. Linux only; elsewhere the lock
    of the run's directory excludes a second run.
    """
    if _REPORTS not in os.environ or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # In a container the launcher itself may be process 1.
    if str(os.getppid()) != os.environ.get(_LAUNCHER_PID):  # it ended before the call above
        sys.exit(1)


_LOST = re.compile(
    r"closed by peer|reset by peer|broken pipe|gloo|nccl|connection (was )?(lost|closed)"
    r"|process ?group|TCPStore",
    re.IGNORECASE,
)
_LOST_FILE = "lost-peers"
_NCCL = (
    "NCCL_DEBUG=INFO in the environment logs what NCCL does, and NCCL_SOCKET_IFNAME=eth0 names the "
    "network interface that it is to use"
)


def lost_peers(error: RuntimeError) -> bool:
    """True for an error that torch raises in a worker whose peers have ended.

    Its traceback is written for the launcher, which prints it unless another worker has reported
    the cause.
    """
    if not _LOST.search(str(error)):
        return False
    if _REPORTS not in os.environ:
        first = (str(error).strip().splitlines() or ["?"])[0][:200]
        more = f"; {_NCCL}" if "nccl" in first.lower() else ""
        sys.stderr.write(
            f"error: another worker ended, or cannot be reached any more: {first}{more}\n"
        )
        return True
    report_to_launcher(_LOST_FILE, traceback.format_exc())
    return True


def launch(workers: int, arguments: Sequence[str], folder: str | Path, again: str) -> None:
    """Run `python -m lookalike ARGUMENTS` as `workers` processes, and wait for them.

    Args:
        workers: their number.
        folder: a temporary one, for reports of the workers.
        again: how to continue after a worker was killed, for a message.

    Raises:
        ConfigError: they need more memory than is free, before they hold a model.
        WorkersFailed: one of them ended with another exit code than 0.
    """
    began = time.monotonic()
    fit = max(available() // _LEAST_OF_A_WORKER, 1)
    if workers > fit:
        raise ConfigError(
            f"{workers:,} workers do not fit into this machine's free memory: each takes "
            f"{_LEAST_OF_A_WORKER / 1e9:.1f} GB before it holds a model, so {fit:,} at most; "
            "usual is one for each GPU, or one in all without GPUs"
        )
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # torchrun's own default is one thread each, whatever the machine has.
    usable = cores()
    if workers > 2 * usable:
        sys.stderr.write(
            f"warning: {workers:,} workers share {counted(usable, 'core')}: they are slower than "
            "fewer, and each takes memory for a model of its own; usual is one for each GPU, or "
            "one in all without GPUs\n"
        )
    ours = {_REPORTS: str(folder), _LAUNCHER_PID: str(os.getpid()), _BEGAN: str(began)}
    usual = {"OMP_NUM_THREADS": str(max(1, usable // workers))}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
        usual["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGTERM,SIGINT,SIGQUIT"
    ours |= {name: value for name, value in usual.items() if name not in os.environ}
    os.environ.update(ours)
    # Its warnings are about itself; our workers report their errors themselves.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    options = ["--standalone", f"--nproc-per-node={workers}", "--no-python", sys.executable]
    try:
        run(parse_args([*options, "-m", "lookalike", *arguments]))
    except ChildFailedError as error:
        found = {rank: failure.exitcode for rank, failure in error.failures.items()}
        raise _failure(found, Path(folder), again) from None
    except SignalException as error:
        code = 128 + int(error.sigval)
        text = f"stopped by {signal.Signals(error.sigval).name}"
        raise WorkersFailed(text, code, is_reported=is_failure_reported()) from None
    finally:
        for name in ours:  # the program that called us may start others
            os.environ.pop(name, None)


def _failure(codes: Mapping[int, int], folder: Path, again: str) -> WorkersFailed:
    """The error for exit codes by rank; negative ones are signals."""
    if is_failure_reported():
        code = 2 if 2 in codes.values() else max(codes.values(), key=abs)
        return WorkersFailed(
            "a worker failed; its own message is above", code if code > 0 else 1, is_reported=True
        )
    lost = folder / _LOST_FILE
    if not lost.exists():
        # By SIGTERM torchrun ends those that are left: what ended before them is the cause.
        codes = {rank: code for rank, code in codes.items() if code != -signal.SIGTERM} or codes
    killed = {rank: -code for rank, code in codes.items() if code < 0}
    if not killed:
        if lost.exists():
            sys.stderr.write(lost.read_text("utf-8"))
        code = max(codes.values())
        workers = ", ".join(map(str, codes))
        return WorkersFailed(f"worker {workers} ended with exit code {code}; {again}", code)
    rank, number = min(killed.items(), key=lambda item: (item[1] != signal.SIGKILL, item[0]))
    causes: dict[int, str] = {
        signal.SIGKILL: "the usual cause is memory: the kernel kills a process when the machine "
        "has none left (see `dmesg`); a smaller train.batch_size, fewer workers or "
        "head.fused_update=true need less",
        signal.SIGBUS: "the usual cause is a full /dev/shm, or a file that was cut off while it "
        "was read",
        signal.SIGTERM: "a user, or the system that runs the job, stopped it",
        signal.SIGABRT: "between GPUs NCCL ends a worker so when an exchange with others fails or "
        f"takes longer than run.timeout (its own message is above; {_NCCL}); otherwise a fault in "
        "native code: please report it",
    }
    cause = causes.get(number, "a fault in native code; please report it")
    name = signal.Signals(number).name
    return WorkersFailed(f"worker {rank} was ended by {name}: {cause}. {again}", 128 + number)
