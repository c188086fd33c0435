"""A study of `quality.py`: a folder with the finished trials, and the order of those to come.

trials.jsonl     a line for each finished trial; of the same trial the last one counts
tuning.jsonl     the same for trials on classes held out of the training list
queries/         Recall@1 and MAP@R of each query of a trial, and its class
logs/            what each trial printed; running/ its request

Several processes may work on one folder: a trial is claimed by a lock on its file in running/.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from quality_oml import OML
from quality_peers import PUBLISHED, published
from quality_trial import METRICS, Request, write_request

HERE = Path(__file__).parent
TRIALS, TUNING = "trials.jsonl", "tuning.jsonl"
PEERS = (*PUBLISHED, *OML)
METHODS = ("ours", "frozen", "component", *PEERS)

COMPONENT = {"train.recipe": "component"}
"""Alibaba PAI's component: ours with the settings of its page."""


@dataclass(frozen=True)
class Regime:
    """Start of a training, and its length.

    Attributes:
        weights: a file in the folder `weights` of the sets; None to begin at random.
        epochs: at a scale of 1.
        batch_size: of the peers.
    """

    backbone: str
    weights: str | None
    image_size: int
    epochs: int
    batch_size: int = 64


REGIMES = {
    "scratch": Regime("resnet18", None, 64, 20),
    "lite0": Regime("tf_efficientnet_lite0", "tf_efficientnet_lite0.safetensors", 128, 8),
    "lite2": Regime("tf_efficientnet_lite2", "tf_efficientnet_lite2.safetensors", 128, 8),
    "mobilenetv2": Regime("mobilenetv2_100", "mobilenetv2_100.safetensors", 128, 8),
}


class StudyError(Exception):
    """A mistake that the user can fix, in one line."""


@dataclass(frozen=True)
class Method:
    """A method by its name: `ours`, `ours:loss.scale=16,optim.lr=0.01`, `pml_cosface:tuned`.

    Attributes:
        base: ours, frozen, or a peer.
        settings: that differ from the base's own.
        tuned: take the best settings of tuning.jsonl.
    """

    base: str
    settings: dict[str, Any] = field(default_factory=dict)
    tuned: bool = False

    @classmethod
    def parse(cls, name: str) -> Method:
        base, _, text = name.partition(":")
        if base not in METHODS:
            raise StudyError(f"{name!r}: there is no method {base!r}; there are {_listed(METHODS)}")
        if text == "tuned" and base not in ("frozen", "component"):
            return cls(base, tuned=True)
        settings = {}
        for item in _split(text):
            key, equals, value = item.partition("=")
            if not equals:
                raise StudyError(f"{name!r}: {item!r} is not key=value, nor tuned")
            own = base in ("ours", "component")
            settings[key] = value if own else yaml.safe_load(_number(value))
        if base == "frozen" and settings:
            raise StudyError(f"{name!r}: frozen has no settings")
        if base in PEERS:
            try:
                peer_settings(base, settings, pretrained=False)
            except ValueError as error:
                raise StudyError(f"{name!r}: {error}") from None
        return cls(base, {**COMPONENT, **settings} if base == "component" else settings)


def peer_settings(base: str, changed: Mapping[str, Any], *, pretrained: bool) -> dict[str, Any]:
    """All settings of a peer: the published ones, but for those that are changed.

    Raises:
        ValueError: it has no such setting.
    """
    if base in PUBLISHED:
        return asdict(published(base, pretrained=pretrained).changed(changed))
    settings, fine_tuning = OML[base]
    return asdict(settings.changed({**(fine_tuning if pretrained else {}), **changed}))


def _number(text: str) -> str:
    """YAML reads 1e-3 as text."""
    try:
        return repr(float(text)) if "e" in text.lower() else text
    except ValueError:
        return text


def _split(text: str) -> list[str]:
    """Items between commas, but for those within brackets."""
    items, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            items.append("")
        else:
            items[-1] += letter
    return [item for item in items if item]


def names(text: str) -> list[str]:
    """Names between commas; a part with `=` before any `:` belongs to the method before it."""
    found: list[str] = []
    for item in _split(text):
        continues = "=" in item and ":" not in item.partition("=")[0]
        if found and continues:
            found[-1] += f",{item}"
        else:
            found.append(item)
    return found


@dataclass(frozen=True)
class Trial:
    """One training and its measurement.

    Attributes:
        set: name of the folder with train.txt and test.txt.
        regime: a key of `REGIMES`.
        scale: of the regime's epochs.
        held_out: measured on train_dev.txt after training on train_fit.txt.
    """

    set: str
    regime: str
    method: str
    scale: float
    seed: int
    held_out: bool = False

    @property
    def key(self) -> str:
        """As a file name: the same for the same trial, and short."""
        text = json.dumps(asdict(self), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        base = self.method.partition(":")[0]
        return f"{self.set}-{self.regime}-{base}-{self.seed}-{digest}"


@dataclass(frozen=True)
class Study:
    """The folder.

    Attributes:
        folder: of the results.
        data: of the sets, and of `weights`.
        threads: of each trial.
        max_steps: for a try: end trainings after so many.
        oml: the Python with open-metric-learning.
    """

    folder: Path
    data: Path
    threads: int = 1
    max_steps: int | None = None
    oml: str | None = None

    def lines(self, file: str = TRIALS) -> list[dict[str, Any]]:
        """The finished trials, of the same trial the last one."""
        path = self.folder / file
        found: dict[str, dict[str, Any]] = {}
        if path.exists():
            with path.open() as stream:
                fcntl.flock(stream, fcntl.LOCK_SH)  # no line that is half written
                content = stream.read()
            for number, text in enumerate(content.splitlines(), 1):
                try:
                    line = json.loads(text)
                except ValueError:
                    raise StudyError(f"{path}:{number}: not JSON; delete the line") from None
                found[line["key"]] = line
        return list(found.values())

    def append(self, file: str, line: Mapping[str, Any]) -> None:
        """Add a line, whatever others add at the same time."""
        with (self.folder / file).open("a") as out:
            fcntl.flock(out, fcntl.LOCK_EX)
            out.write(json.dumps(line) + "\n")

    @contextmanager
    def claim(self, trial: Trial) -> Iterator[bool]:
        """True if the trial is this process's: no other one is at it."""
        folder = self.folder / "running"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{trial.key}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def settings(self, trial: Trial) -> dict[str, Any]:
        """Settings that differ from the method's own."""
        method = Method.parse(trial.method)
        if method.base in OML and self.oml is None:
            raise StudyError(f"{method.base} needs --oml PYTHON, with open-metric-learning")
        if not method.tuned:
            return method.settings
        found = best_tuning(self.lines(TUNING), asdict(trial))
        if found is None:
            raise StudyError(
                f"{trial.method} has no tuning on {trial.set}, {trial.regime}: run"
                f" `python benchmarks/quality.py tune {self.folder} --method {method.base}"
                f" --sets {trial.set} --regimes {trial.regime} --trials 20` first"
            )
        return found["settings"]

    def complete_settings(self, trial: Trial) -> dict[str, Any]:
        """Those of the regime, with all settings of a peer or those given to ours."""
        settings, method = self.settings(trial), Method.parse(trial.method)
        if method.base in PEERS:
            pretrained = REGIMES[trial.regime].weights is not None
            settings = peer_settings(method.base, settings, pretrained=pretrained)
        settings = {**settings, "regime": asdict(REGIMES[trial.regime])}
        return settings if self.max_steps is None else {**settings, "max_steps": self.max_steps}

    def missing(self, trials: Sequence[Trial]) -> list[Trial]:
        """Those that have no line with the same settings."""
        done = {
            line["key"]: line["complete"] for file in (TRIALS, TUNING) for line in self.lines(file)
        }
        return [
            trial
            for trial in trials
            if trial.key not in done
            or done[trial.key] != json.loads(json.dumps(self.complete_settings(trial)))
        ]

    def run(self, trial: Trial) -> str:
        """Run one trial in a process of its own and append its line; "" or why it failed."""
        regime, stamp = REGIMES[trial.regime], f"{trial.key}-{int(time.time())}"
        lists = ("train_fit", "train_dev") if trial.held_out else ("train", "test")
        train, test = (str(self.data / trial.set / f"{name}.txt") for name in lists)
        weights = None
        if regime.weights is not None:
            weights = str(self.data / "weights" / regime.weights)
        work = self.folder / "running" / stamp
        work.mkdir(parents=True)
        log = self.folder / "logs" / f"{stamp}.txt"
        log.parent.mkdir(exist_ok=True)
        queries = f"queries/{stamp}.npz"
        method = Method.parse(trial.method)
        request = Request(
            method="ours" if method.base == "component" else method.base,
            settings=self.settings(trial),
            train=train,
            test=test,
            backbone=regime.backbone,
            weights=weights,
            image_size=regime.image_size,
            epochs=regime.epochs * trial.scale,
            batch_size=regime.batch_size,
            seed=trial.seed,
            threads=self.threads,
            max_steps=self.max_steps,
            oml=self.oml,
            folder=str(work / "run"),
            queries=str(self.folder / queries),
            result=str(work / "result.json"),
        )
        write_request(request, work / "request.json")
        try:
            code = _call(work / "request.json", log, self.threads)
            if code != 0:
                said = [line for line in log.read_text().splitlines() if line.strip()]
                return f"{said[-1] if said else f'exit code {code}'} (see {log})"
            found = json.loads((work / "result.json").read_text())
            resolved = work / "run" / "resolved.yaml"
            line = {
                **asdict(trial),
                "key": trial.key,
                "backbone": regime.backbone,
                "weights": regime.weights,
                "image_size": regime.image_size,
                "epochs": request.epochs,
                "batch_size": regime.batch_size,
                "threads": self.threads,
                "max_steps": self.max_steps,
                "settings": request.settings,
                "complete": self.complete_settings(trial),
                "resolved": yaml.safe_load(resolved.read_text()) if resolved.exists() else None,
                "commit": _commit(),
                "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "queries": queries,
                **found,
            }
            self.append(TUNING if trial.held_out else TRIALS, line)
        finally:
            shutil.rmtree(work)
        return ""


def frozen_of(trial: Trial) -> Trial:
    """The trial of the same start without training; pretrained weights have no seed."""
    seed = trial.seed if REGIMES[trial.regime].weights is None else 0
    return Trial(trial.set, trial.regime, "frozen", 1.0, seed, trial.held_out)


def in_order(
    sets: Sequence[str],
    regimes: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    scales: Sequence[float],
) -> list[Trial]:
    """The trials, those that teach most first.

    A seed after the other, and of a seed the full length first; there the frozen backbones, which
    take seconds; then a method after the other, each on all sets.
    """
    found: list[Trial] = []
    for seed in seeds:
        for scale in scales:
            cells = [
                Trial(name, regime, method, scale, seed)
                for method in methods
                if method != "frozen"
                for regime in regimes
                for name in sets
            ]
            found += [frozen_of(trial) for trial in cells] + cells
    return list(dict.fromkeys(found))


def tuning_of(
    lines: Sequence[Mapping[str, Any]], trial: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    return [
        line
        for line in lines
        if all(line[key] == trial[key] for key in ("set", "regime", "scale"))
        and line["method"].partition(":")[0] == trial["method"].partition(":")[0]
    ]


def best_tuning(
    lines: Sequence[Mapping[str, Any]], trial: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    found = tuning_of(lines, trial)
    return max(found, key=lambda line: sum(line["end"][m] for m in METRICS), default=None)


def _call(request: Path, log: Path, threads: int) -> int:
    """The exit code of a trial; it is ended when this process is interrupted."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with log.open("w") as out:
        child = subprocess.Popen(
            [sys.executable, str(HERE / "quality_trial.py"), str(request)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # with the process of OML that it may start
        )
        try:
            return child.wait()
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise


def _commit() -> str:
    done = subprocess.run(
        ["git", "-C", str(HERE), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items)
