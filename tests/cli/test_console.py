"""A console that is closed, full or cannot encode; and Ctrl-C from the first moment on."""

import contextlib
import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from lookalike import cli, log
from lookalike.distributed import launch, signals, world
from lookalike.distributed.world import World
from lookalike.errors import ConfigError, ConsoleError, LookalikeError
from lookalike.storage.cache_folder import cache_entry, cache_folder
from lookalike.storage.retry import cause


@pytest.fixture
def closed():
    """A stream whose reader went away."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="ascii") as stream:
        yield stream


@pytest.fixture(autouse=True)
def answering():
    """A command that ends with its console, whatever an earlier test began."""
    log.start()


@pytest.fixture
def training(answering):
    """A command that continues without a console."""
    log.start(console_optional=True)
    yield
    log.start()


def test_training_continues_without_a_console(closed, training, caplog):
    stream = log.ConsoleStream("stdout", closed)
    for _ in range(3):
        stream.write("a line\n")
        stream.flush()
    assert caplog.text.count("standard output: cannot be written to: broken pipe") == 1
    closed.write("what Python writes at its end goes nowhere")
    closed.flush()


def test_other_commands_end_as_by_sigpipe(closed):
    stream = log.ConsoleStream("stdout", closed)
    stream.write("a line\n")
    with pytest.raises(ConsoleError) as told:
        stream.flush()
    assert told.value.exit_code == 141


@pytest.mark.parametrize(("word", "code", "said"), [("--help", 2, "no space left on device")])
def test_an_answer_on_a_full_disk_is_an_error(monkeypatch, capfd, word, code, said):
    monkeypatch.setattr(sys, "argv", ["lookalike", word])
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert end.value.code == code
    assert capfd.readouterr().err == f"error: standard output: cannot be written to: {said}\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_was_closed_before_the_start_is_none(monkeypatch, stream):
    monkeypatch.setattr(sys, "argv", ["lookalike", "--help"])
    monkeypatch.setattr(sys, stream, None)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert not log.is_terminal()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_outside_the_encoding_of_a_console_are_escaped(encoding, tmp_path, monkeypatch):
    for logger in (log.logger, logging.getLogger()):  # as in a program without logging of its own
        monkeypatch.setattr(logger, "handlers", [])
    log.start()
    with open(tmp_path / "out", "w", encoding=encoding) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        log.logger.info("caf\u00e9 \u4e2d \udcff")
    said = (tmp_path / "out").read_bytes().decode(encoding)
    assert said.endswith("\\udcff\n")
    assert said.startswith("caf\\xe9" if encoding == "ascii" else "caf\u00e9")


def test_log_txt_takes_every_name_and_outlives_a_full_disk(tmp_path, caplog):
    with log.also_to_file(tmp_path / "log.txt"):
        log.logger.error("caf\udcff")
    assert (tmp_path / "log.txt").read_text().endswith("caf\\udcff\n")
    with log.also_to_file("/dev/full"):
        log.logger.error("one")
        log.logger.error("two")
    assert caplog.text.count("/dev/full: cannot be written: no space left on device") == 1


def child(*program: str) -> subprocess.CompletedProcess[str]:
    """A program that handles Ctrl-C as `lookalike` does, without torch."""
    begin = ["import signal, sys", "from lookalike.distributed import signals", "signals.handle()"]
    return subprocess.run(
        [sys.executable, "-c", "\n".join([*begin, *program])],
        capture_output=True, text=True, check=False, timeout=60,
        env={k: v for k, v in os.environ.items() if k != "LOCAL_RANK"},
    )  # fmt: skip


def test_ctrl_c_in_an_import_that_swallows_it_ends_at_once(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import signal\ntry:\n    signal.raise_signal(signal.SIGINT)\nexcept BaseException:\n"
        "    raise ImportError('no such symbol') from None\n"
    )
    done = child(f"sys.path.insert(0, {str(tmp_path)!r})", "import slow")
    assert (done.returncode, done.stderr) == (130, "stopped\n")


def test_ctrl_c_stops_a_program_whose_parent_ignores_it():
    """As a shell's background job, or under some CI runners."""
    program = [
        "from lookalike.distributed import signals", "signals.handle()",
        "with signals.deferred() as wish:", "    signal.raise_signal(signal.SIGINT)",
        "print(wish.signal)", "signal.raise_signal(signal.SIGINT)",
    ]  # fmt: skip
    ignored = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([ignored, *program])],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout == "2\n"
    assert done.stderr.endswith("KeyboardInterrupt\n")


def test_ctrl_c_that_a_library_turned_into_another_error_is_no_traceback():
    done = child(
        "from lookalike import cli",
        "def app():",
        "    try:",
        "        signal.raise_signal(signal.SIGINT)",
        "    except KeyboardInterrupt:",
        "        raise SystemError('returned a result with an exception set') from None",
        "cli.app = app",
        "cli.main()",
    )
    assert (done.returncode, done.stderr) == (130, "stopped\n")


def test_sighup_asks_to_stop_unless_it_is_ignored():
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with signals.deferred() as wish:
            signal.raise_signal(signal.SIGHUP)
        assert wish.signal == signal.SIGHUP
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        with signals.deferred() as wish:
            signal.raise_signal(signal.SIGHUP)
        assert not wish
    finally:
        signal.signal(signal.SIGHUP, before)


MEETING = {
    "RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"WORLD_SIZE": "4", "RANK": "0"}, "not MASTER_ADDR: no launcher started this process"),
        ({"RANK": "3"}, "RANK=3: no worker of a run; unset RANK"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK=1: no worker of a run"),
        ({"RANK": "x"}, "RANK=x: not numbers of workers"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0: no worker of a run"),
        (MEETING | {"MASTER_ADDR": ""}, "but not MASTER_ADDR: no launcher started"),
        (MEETING | {"MASTER_PORT": "a"}, "MASTER_PORT=a: not the number of a port; unset RANK"),
        (MEETING | {"MASTER_PORT": "65536"}, "MASTER_PORT=65536: not the number of a port"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "one of several tasks of srun; start it with `lookalike"),
    ],
)
def test_the_environment_of_another_launcher_is_named(monkeypatch, environment, words):
    set_launcher(monkeypatch, environment)
    with pytest.raises(ConfigError, match=words):
        World.from_env("cpu")


@pytest.mark.parametrize(("rank", "others"), [("0", "2 other workers"), ("1", "the main worker")])
def test_waiting_for_workers_that_do_not_come_is_explained(monkeypatch, caplog, rank, others):
    handlers = []

    def wait(*places, **options):
        handlers.append(signal.getsignal(signal.SIGINT))
        for timer in threading.enumerate():
            if isinstance(timer, threading.Timer):
                timer.join(20)
        raise torch.distributed.DistNetworkError("The client socket has timed out.\nframe #7")

    # The second group of a process has a store of its own: `rendezvous` is where it waits.
    for name in ("init_process_group", "rendezvous"):
        monkeypatch.setattr(torch.distributed, name, wait)
    monkeypatch.setattr(world, "SLOW_SECONDS", 0.0)
    set_launcher(monkeypatch, MEETING | {"RANK": rank})
    before = signal.getsignal(signal.SIGINT)
    assert World.device_from_env("cpu").type == "cpu"  # waits for nobody
    with pytest.raises(ConfigError) as refused:
        World.from_env("cpu")
    # Python's handlers do not run while torch waits: Ctrl-C would not be heard.
    assert handlers == [signal.SIG_DFL]
    assert signal.getsignal(signal.SIGINT) == before
    places = f"RANK={rank}, WORLD_SIZE=3, MASTER_ADDR=127.0.0.1, MASTER_PORT=29511"
    names = "unset RANK WORLD_SIZE MASTER_ADDR MASTER_PORT"
    [line] = caplog.messages
    assert line.startswith(
        f"waiting for {others}, up to 30 minutes, as the environment has {places};"
    )
    assert line.endswith(names)
    assert str(refused.value).startswith(
        f"the environment has {places}, but {others} cannot be reached there (The client socket "
        f"has timed out); {names}, or start the workers with"
    )


def test_another_program_at_the_address_of_the_main_worker_is_named(monkeypatch):
    """It accepts connections and is silent, as a server of HTTP is until a line has come."""
    monkeypatch.setattr(world, "TIMEOUT_MARGIN", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = str(silent.getsockname()[1])
        set_launcher(monkeypatch, MEETING | {"RANK": "1", "MASTER_PORT": port})
        began = time.monotonic()
        words = f"MASTER_PORT={port}, but the main worker .* another program.*; unset RANK"
        with pytest.raises(ConfigError, match=words):
            World.from_env("cpu", timeout=0.5)
        assert time.monotonic() - began < 10


def set_launcher(monkeypatch, environment):
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name in (*names, "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def fail_with(monkeypatch, codes):
    """Let torchrun end with these exit codes of the workers, by rank."""
    failures = {rank: types.SimpleNamespace(exitcode=code) for rank, code in codes.items()}

    def run(options):
        ours = {"LOOKALIKE_REPORTS", "LOOKALIKE_LAUNCHER_PID", "OMP_NUM_THREADS"}
        assert ours <= os.environ.keys()
        raise ChildFailedError("lookalike", failures)

    monkeypatch.setattr("torch.distributed.run.run", run)
    monkeypatch.setattr(ChildFailedError, "__init__", lambda self, name, found: None)
    monkeypatch.setattr(ChildFailedError, "failures", failures, raising=False)


@pytest.mark.parametrize(
    ("codes", "code", "words"),
    [
        ({1: -9, 0: 1}, 137, "worker 1 was ended by SIGKILL: the usual cause is memory"),
        ({0: -11}, 139, "worker 0 was ended by SIGSEGV: a fault in native code"),
        ({0: -6}, 134, "worker 0 was ended by SIGABRT: between GPUs NCCL ends a worker so"),
        ({0: -15, 1: -9}, 137, "worker 1 was ended by SIGKILL"),
        ({1: 3}, 3, "worker 1 ended with exit code 3"),
    ],
)
def test_a_worker_that_was_killed_is_named(tmp_path, monkeypatch, codes, code, words):
    fail_with(monkeypatch, codes)
    with pytest.raises(launch.WorkersFailed) as failed:
        launch.launch(2, ["train"], tmp_path, "Resume with: this")
    assert words in str(failed.value)
    assert str(failed.value).endswith("Resume with: this")
    assert failed.value.exit_code == code
    assert not failed.value.is_reported


@pytest.mark.parametrize(
    ("words", "lost"),
    [
        ("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4611", True),
        ("NCCL communicator was aborted on rank 0", True),
        ("mat1 and mat2 shapes cannot be multiplied (8x3 and 4x5)", False),
    ],
)
def test_a_lost_peer_is_distinguished_from_a_bug(words, lost, tmp_path, monkeypatch):
    monkeypatch.setenv("LOOKALIKE_REPORTS", str(tmp_path))
    assert launch.lost_peers(RuntimeError(words)) is lost
    assert (tmp_path / "lost-peers").exists() is lost


def test_a_lost_peer_of_nccl_names_its_log(monkeypatch, capsys):
    monkeypatch.delenv("LOOKALIKE_REPORTS", raising=False)  # started by torchrun
    assert launch.lost_peers(RuntimeError("NCCL communicator was aborted on rank 0\nmore"))
    assert "was aborted on rank 0; NCCL_DEBUG=INFO in the environment" in capsys.readouterr().err
    assert launch.lost_peers(RuntimeError("Connection closed by peer [127.0.0.1]:4611"))
    assert "NCCL" not in capsys.readouterr().err


def test_a_launch_blames_the_worker_that_failed_and_leaves_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    fail_with(monkeypatch, {0: -15, 1: 3})
    before = dict(os.environ)
    with pytest.raises(launch.WorkersFailed, match="worker 1 ended with exit code 3; Go on"):
        launch.launch(2, ["train"], tmp_path, "Go on with: this")
    assert dict(os.environ) == before


@pytest.mark.parametrize(("launcher", "ends"), [("1", False), ("4711", True)])
def test_a_launcher_that_is_process_1_of_a_container_is_there(launcher, ends, monkeypatch):
    monkeypatch.setattr(launch.ctypes, "CDLL", lambda name: types.SimpleNamespace(prctl=print))
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setenv("LOOKALIKE_REPORTS", "folder")
    monkeypatch.setenv("LOOKALIKE_LAUNCHER_PID", launcher)
    with pytest.raises(SystemExit) if ends else contextlib.nullcontext():
        launch.end_with_launcher()


def test_errors_of_system_calls_are_one_line_and_bugs_are_not():
    named = LookalikeError.of_system(FileNotFoundError(errno.ENOENT, "no", "/a/b"))
    assert str(named) == "/a/b: no such file or directory"
    assert LookalikeError.of_system(OSError("requested and written")) is None
    assert LookalikeError.of_system(OSError(errno.EINVAL, "invalid")) is None


def test_a_user_without_a_home_has_a_cache(monkeypatch, tmp_path):
    for name in ("HOME", "XDG_CACHE_HOME", "LOOKALIKE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])  # a container's user
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_folder() == tmp_path / f"lookalike-{os.getuid()}"
    assert cache_entry("models", "s3://b/run").parent == cache_folder() / "models"


def test_a_name_outside_the_encoding_of_the_system_names_the_setting():
    error = UnicodeEncodeError("ascii", "caf\u00e9", 3, 4, "ordinal not in range(128)")
    assert "in ascii, the encoding of file names here; set PYTHONUTF8=1" in cause(error)


def test_workers_beyond_the_free_memory_are_refused_before_one_starts(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("torch.distributed.run.run", started.append)
    monkeypatch.setattr(launch, "available", lambda: 24 * 10**9)
    with pytest.raises(ConfigError, match=r"1,000 workers do not fit .* so 80 at most"):
        launch.launch(1000, ["train"], tmp_path, "Resume with: this")
    assert not started
    launch.launch(80, ["train"], tmp_path, "Resume with: this")
    assert len(started) == 1


@pytest.mark.parametrize(
    ("workers", "cores", "warned"), [(99, 2, True), (4, 2, False), (3, 1, True)]
)
def test_many_more_workers_than_cores_are_one_warning(
    tmp_path, monkeypatch, capsys, workers, cores, warned
):
    started = []
    monkeypatch.setattr("torch.distributed.run.run", started.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(cores), raising=False)
    monkeypatch.setattr(launch, "available", lambda: 10**12)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    launch.launch(workers, ["train"], tmp_path, "Resume with: this")
    said = capsys.readouterr().err
    assert len(started) == 1
    assert said.count("\n") == warned
    if warned:
        assert said.startswith(f"warning: {workers} workers share {cores} core")
        assert "usual is one for each GPU, or one in all without GPUs" in said
