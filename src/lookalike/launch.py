"""Several workers on this machine: the same program again, through torchrun."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from lookalike.errors import LookalikeError


class WorkersFailed(LookalikeError):
    """The workers ended with an error, which they have told already."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the workers ended with exit code {exit_code}; see their lines above")
        self.exit_code = exit_code


def in_worker() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "LOCAL_RANK" in os.environ


_SAID = "LOOKALIKE_SAID"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def first_to_say(message: str) -> bool:
    """Whether no other worker of this machine has told the user this yet."""
    folder = os.environ.get(_SAID)
    if folder is None:
        return True
    name = hashlib.sha256(message.encode()).hexdigest()
    try:
        (Path(folder) / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # the folder went with the launcher: better twice than never
        return True
    return True


def somebody_said() -> bool:
    """Whether a worker of this machine has told the user why the run ends."""
    folder = os.environ.get(_SAID)
    return folder is not None and any(len(path.name) == 64 for path in Path(folder).iterdir())


def tell_launcher(name: str, text: str) -> None:
    """Leave a text for the process that launched this worker, if one did: a file of its folder."""
    if _SAID in os.environ:
        (Path(os.environ[_SAID]) / name).write_text(text, "utf-8")


def end_with_launcher() -> None:
    """Let this worker end when the process that launched it does, however that ended.

    torchrun gives each worker a session of its own: a launcher that is killed outright would
    leave its workers behind, writing into the directory of the run that is resumed meanwhile.
    Linux only; elsewhere the lock of the run's directory says that somebody is still there.
    """
    if _SAID not in os.environ or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:  # it ended before we asked
        sys.exit(1)


def launch(workers: int, arguments: Sequence[str], folder: str | Path) -> None:
    """Run `python -m lookalike ARGUMENTS` as `workers` processes, and wait for them.

    Args:
        workers: how many.
        arguments: what follows the program's name.
        folder: a temporary one, where the workers note which errors were told.

    Raises:
        WorkersFailed: one of them ended with another exit code than 0.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # torchrun's own default is one thread each, whatever the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // workers)))
    os.environ[_SAID] = str(folder)
    # Its warnings are about itself; our workers' errors are told by our workers.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    options = ["--standalone", f"--nproc-per-node={workers}", "--no-python", sys.executable]
    try:
        run(parse_args([*options, "-m", "lookalike", *arguments]))
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        raise WorkersFailed(2 if 2 in codes else max(codes, key=abs)) from None
    except SignalException as error:
        raise WorkersFailed(128 + int(error.sigval)) from None
    finally:
        del os.environ[_SAID]
