"""Workers of a run: rank, device, and collectives that are the identity with one worker."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lookalike.errors import ConfigError, LookalikeError, RunError
from lookalike.log import counted, logger

TIMEOUT = 1800.0
"""Seconds that a worker waits for others by default."""

SLOW_SECONDS = 10.0
TIMEOUT_MARGIN = 5.0  # seconds beyond the timeout, within which torch reports its own

_LAUNCHER = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}


def _launched() -> tuple[int, int, int, int]:
    """Rank and number of workers, in all and on this machine, from the launcher's environment.

    A ConfigError where it is incomplete or contradicts itself: left over from another program.
    """
    given = {name: os.environ[name] for name in _LAUNCHER if name in os.environ}
    shown, fix = _shown(given), _fix(given)
    try:
        found = {name: int(given.get(name, usual)) for name, usual in _LAUNCHER.items()}
    except ValueError:
        raise ConfigError(f"the environment has {shown}: not numbers of workers; {fix}") from None
    rank, size, local_rank, local_size = found.values()
    here = local_size if "LOCAL_WORLD_SIZE" in given else size  # not every launcher sets it
    if not (0 <= rank < size and 0 <= local_rank < here <= size):
        raise ConfigError(f"the environment has {shown}: no worker of a run; {fix}")
    of_machine = os.environ.get("NPROC_PER_NODE", "1")
    if size > 1 and "LOCAL_RANK" not in given and of_machine not in ("", "1"):
        # DLC's variables are for torchrun.
        raise ConfigError(
            f"the environment has {shown}, NPROC_PER_NODE={of_machine}: those of a machine of a "
            "job, not of a worker; start it with `lookalike submit --on dlc`, or with torchrun "
            "--nnodes=$WORLD_SIZE --node-rank=$RANK --nproc-per-node=$NPROC_PER_NODE "
            "--master-addr=$MASTER_ADDR --master-port=$MASTER_PORT -m lookalike ..."
        )
    machines = os.environ.get("PET_NNODES", "1")
    if "LOCAL_RANK" not in given and machines not in ("", "1"):
        # Kubeflow Trainer's variables are for torchrun.
        raise ConfigError(
            f"the environment has PET_NNODES={machines}: this is one of several machines of a job; "
            "start it with `lookalike submit --on kubernetes`, or with torchrun -m lookalike ..."
        )
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if not given and tasks not in ("", "1"):
        # srun starts tasks without the variables of a launcher: each would work alone.
        raise ConfigError(
            f"the environment has SLURM_STEP_NUM_TASKS={tasks}: this is one of several tasks of "
            "srun; start it with `lookalike submit --on slurm`, or with srun "
            "--ntasks-per-node=1 torchrun ... -m lookalike ...; for tasks that have nothing to do "
            "with each other, unset SLURM_STEP_NUM_TASKS"
        )
    return rank, size, local_rank, local_size


def _check_master(size: int) -> None:
    """Raise a ConfigError where the address of the main worker is missing, or none."""
    given = [name for name in _LAUNCHER if name in os.environ]
    shown, fix = _shown(given), _fix(given)
    lacking = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if size > 1 and lacking:
        raise ConfigError(
            f"the environment has {shown}, but not {lacking[0]}: no launcher started this process; "
            f"{fix}"
        )
    port = os.environ.get("MASTER_PORT", "")
    if size > 1 and not (port.isdecimal() and int(port) < 2**16):
        raise ConfigError(
            f"the environment has MASTER_PORT={port}: not the number of a port; {fix}"
        )


def _shown(given: Iterable[str]) -> str:
    return ", ".join(f"{name}={os.environ[name]}" for name in given)


def _fix(given: Iterable[str]) -> str:
    return (
        f"unset {' '.join(given)}, or start the workers with --workers N or torchrun (a launcher "
        "gives RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT to each)"
    )


def _connect(rank: int, size: int, device: torch.device, timeout: float) -> None:
    """Wait for the other workers and create the process group.

    Workers that torchrun started get torch's own error, others a ConfigError.
    """
    options: dict[str, Any] = {"backend": "gloo", "timeout": timedelta(seconds=timeout)}
    if device.type == "cuda":
        options |= {"backend": "nccl", "device_id": device}
    if "TORCHELASTIC_RUN_ID" in os.environ:  # its agent supervises the start
        _create_group(rank, size, options)
        return
    others = "the main worker" if rank else counted(size - 1, "other worker")
    names = [name for name in (*_LAUNCHER, "MASTER_ADDR", "MASTER_PORT") if name in os.environ]
    limit = f"{timeout / 60:.3g} minutes" if timeout >= 120 else f"{timeout:g} seconds"
    try:
        with _logged_if_slow(
            f"waiting for {others}, up to {limit}, as the environment has "
            f"{_shown(names)}; if these are left over from another program, stop and "
            f"unset {' '.join(names)}"
        ):
            _create_group(rank, size, options)
    except dist.DistError as error:
        first = (str(error).strip().splitlines() or ["?"])[0].rstrip(".")
        raise ConfigError(
            f"the environment has {_shown(names)}, but {others} cannot be reached there ({first}); "
            f"{_fix(names)}"
        ) from None


_starts = itertools.count()


def _create_group(rank: int, size: int, options: dict[str, Any]) -> None:
    """Create the process group, also where this process has had one before."""
    # The key-value store of the earlier group may be in use still, with the addresses of then:
    # caches of torch keep a group that has shared a network out (FSDP2).
    store = dist.PrefixStore(f"start-{next(_starts)}", _open_store(rank, size, options["timeout"]))
    dist.init_process_group(**options, store=store, rank=rank, world_size=size)


def _open_store(rank: int, size: int, timeout: timedelta) -> dist.Store:
    """The key-value store of the workers; a DistNetworkError where it does not answer in time.

    In a thread: torch has no limit for the answer to its first message, and another program that
    listens there may give none.
    """
    opened: Future[dist.Store] = Future()

    def connect() -> None:
        try:
            opened.set_result(next(dist.rendezvous("env://", rank, size, timeout=timeout))[0])
        except BaseException as error:
            opened.set_exception(error)

    threading.Thread(target=connect, daemon=True).start()
    seconds = timeout.total_seconds()
    try:
        return opened.result(seconds + TIMEOUT_MARGIN)
    except TimeoutError:
        raise dist.DistNetworkError(
            f"what listens there has not answered as a TCPStore for {seconds:g} seconds: it may be "
            "another program"
        ) from None


@contextmanager
def _logged_if_slow(words: str) -> Iterator[None]:
    """Log `words` if the block takes long; Ctrl-C ends the process during it.

    The block waits inside torch, where Python's signal handlers do not run.
    """
    timer = threading.Timer(SLOW_SECONDS, logger.warning, ["%s", words])
    timer.daemon = True
    timer.start()
    before = signal.getsignal(signal.SIGINT)
    ours = callable(before) and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        timer.cancel()
        if ours:
            signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class World:
    """Workers of this run, seen from one of them.

    Attributes:
        size: workers on all machines together.
        local_size: workers on this machine.
        directory_leader: rank of the worker that creates and cleans the output directory to which
            this worker writes; 0 where all share one (see `shared_directory`).
        directory_leaders: one rank for each such directory, 0 first.
        timeout: seconds that this worker waits for others.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    directory_leader: int = 0
    directory_leaders: tuple[int, ...] = (0,)
    timeout: float = TIMEOUT

    @classmethod
    def from_env(cls, device: str = "auto", timeout: float = TIMEOUT) -> World:
        """Join the workers that a launcher started, or be the only one.

        Args:
            device: "auto" (a CUDA device when there is one), "cpu" or "cuda".
            timeout: seconds to wait for the others, now and in each collective.

        Raises:
            ConfigError: CUDA was asked for and is not available, or the environment is that of a
                launcher which did not start this process.
        """
        place = cls.device_from_env(device)
        rank, size, _, local_size = _launched()
        _check_master(size)
        if size > 1 and not dist.is_initialized():
            _connect(rank, size, place, timeout)
        return cls(rank, size, local_size, place, timeout=timeout)

    @classmethod
    def unjoined(cls, device: str = "auto") -> World:
        """Place of this worker among those that a launcher started, without collectives.

        For work that workers share without waiting for each other. Raises as `from_env` does.
        """
        rank, size, _, local_size = _launched()
        return cls(rank, size, local_size, cls.device_from_env(device))

    @property
    def on_several_machines(self) -> bool:
        """True if workers are on other machines too."""
        return self.local_size != self.size

    @classmethod
    def device_from_env(cls, device: str = "auto") -> torch.device:
        """Device of this worker, without joining the others; see `from_env`."""
        if device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"run.device={device!r} is not one of auto, cpu, cuda")
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("run.device=cuda, but torch finds no CUDA device; use cpu or auto")
        _, _, local_rank, _ = _launched()
        if device == "cpu" or not torch.cuda.is_available():
            return torch.device("cpu")
        if "LOCAL_RANK" not in os.environ:
            # A call from a program keeps the device that the program selected.
            return torch.device("cuda", torch.cuda.current_device())
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"worker {local_rank} of this machine finds only "
                f"{torch.cuda.device_count()} CUDA device(s); use fewer workers"
            )
        place = torch.device("cuda", local_rank)
        torch.cuda.set_device(place)
        return place

    def __enter__(self) -> World:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error the group stays until the process ends: closing it would make the other
        # workers fail, each with a traceback, before this one has reported its error.
        if kind is None and self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """True on the worker that logs and writes for all."""
        return self.rank == 0

    @property
    def is_directory_leader(self) -> bool:
        """True on the worker that creates and cleans the directory to which it writes."""
        return self.rank == self.directory_leader

    def shard(self, count: int, rank: int | None = None) -> range:
        """Indices out of `count` that belong to worker `rank` (default: this one).

        Shards are contiguous and differ in length by one at most; the first ones are larger.
        """
        rank = self.rank if rank is None else rank
        base, more = divmod(count, self.size)
        start = rank * base + min(rank, more)
        return range(start, start + base + (rank < more))

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the workers, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.SUM)
        return tensor

    def begin_sum(self, tensor: Tensor) -> dist.Work | None:
        """Begin to sum over the workers, in place; None with one worker. `wait` of it ends it."""
        if self.size == 1:
            return None
        return dist.all_reduce(tensor, dist.ReduceOp.SUM, async_op=True)

    def max(self, tensor: Tensor) -> Tensor:
        """Elementwise maximum over the workers, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Tensors of all workers by rank; they may differ in their first dimension."""
        if self.size == 1:
            return [tensor]
        lengths = torch.zeros(self.size, dtype=torch.int64, device=tensor.device)
        lengths[self.rank] = tensor.shape[0]
        counts = [int(n) for n in self.sum(lengths).tolist()]
        padded = tensor.new_zeros((max(counts), *tensor.shape[1:]))
        padded[: tensor.shape[0]] = tensor
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return [part[:count] for part, count in zip(parts, counts, strict=True)]

    def all_gather_object(self, value: Any) -> list[Any]:
        """Values of all workers by rank; JSON values only, since nothing is unpickled."""
        text = bytearray(json.dumps(value).encode())
        mine = torch.frombuffer(text, dtype=torch.uint8).to(self.device)
        return [json.loads(part.cpu().numpy().tobytes()) for part in self.gather(mine)]

    def broadcast_object(self, value: Any) -> Any:
        """Value of the main worker, on all; of JSON, as in `all_gather_object`."""
        return self.all_gather_object(value)[0]

    @contextmanager
    def raise_together(self) -> Iterator[None]:
        """Raise on every worker what the user must fix on one, at the end of the block.

        Raises:
            LookalikeError: this worker's own, or a RunError with the message of another's.
        """
        failure = None
        try:
            yield
        except LookalikeError as error:
            failure = error
        except OSError as error:
            failure = LookalikeError.of_system(error)
            if failure is None:
                raise
        messages = self.all_gather_object(None if failure is None else str(failure))
        if failure is not None:
            raise failure
        for message in messages:
            if message is not None:
                raise RunError(message)

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Values of the main worker, in place."""
        if self.size > 1:
            dist.broadcast(tensor, 0)
        return tensor

    def barrier(self) -> None:
        """Wait for all workers."""
        if self.size > 1:
            dist.barrier()


class KeyValueStore:
    """Key-value store between the workers, usable from any thread; created by all together.

    Unlike collectives, which all workers must call in the same order.
    """

    def __init__(self, world: World) -> None:
        # torchrun's store outlives a start that failed, with its values.
        name = f"lookalike-{world.broadcast_object(secrets.token_hex(8))}"
        self._store = dist.PrefixStore(name, dist.distributed_c10d._get_default_store())

    def set(self, key: str, value: Any) -> None:
        """Set a JSON value.

        Raises:
            RunError: the worker that holds the store has ended.
        """
        with _lost_store():
            self._store.set(key, json.dumps(value))

    def get(self, key: str) -> Any:
        """Last value of `key`, None without one; raises as `set` does."""
        with _lost_store():
            return json.loads(self._store.get(key)) if self._store.check([key]) else None


@contextmanager
def _lost_store() -> Iterator[None]:
    try:
        yield
    except RuntimeError:
        raise RunError("the main worker has ended, or cannot be reached any more") from None


ALONE = World()
