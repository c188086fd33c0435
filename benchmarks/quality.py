"""Quality of embeddings, ours and others', from the same images in the same time.

    python benchmarks/quality.py run STUDY --sets emoji,logos --regimes scratch,lite0 \
        --methods ours,pml_cosface,pml_proxy_anchor:tuned --seeds 0,1,2 --time 30m
    python benchmarks/quality.py tune STUDY --method pml_cosface --trials 20
    python benchmarks/quality.py table STUDY
    python benchmarks/quality.py overview STUDY --scale 0.5
    python benchmarks/quality.py effects STUDY --scale 0.5
    python benchmarks/quality.py plot STUDY

A study is a folder. `run` runs the trials that it lacks, what teaches most first; it can be
interrupted at any time, and run again with more sets, methods and seeds. Sets are folders with
train.txt, test.txt, and for `tune` train_fit.txt and train_dev.txt, below --data. A method is a
name, or `name:key=value,...`, or `name:tuned`; of ours the keys are those of `lookalike train`.
Test classes choose nothing: `tune` sees the training list alone. See docs/quality.md.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from requirements import require

require("pytorch_metric_learning")
from quality_effects import effects
from quality_results import overview, plot, table
from quality_study import (
    METHODS,
    REGIMES,
    TUNING,
    Method,
    Study,
    StudyError,
    Trial,
    frozen_of,
    in_order,
    names,
)
from quality_tuning import draw, method_name

UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> float:
    found = re.fullmatch(r"([0-9.]+)([smh])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time, as 90s, 30m or 2h")
    return float(found[1]) * UNITS[found[2]]


def numbers(text: str) -> list[int]:
    return [int(item) for item in text.split(",")]


def scales(text: str) -> list[float]:
    return [float(item) for item in text.split(",")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "tune", "table", "overview", "effects", "plot"):
        each = commands.add_parser(name)
        each.add_argument("folder", type=Path, help="of the study")
        each.add_argument(
            "--data", type=Path, help="folder of the sets and of weights/; default FOLDER/../sets"
        )
        if name in ("run", "tune"):
            each.add_argument("--sets", type=names, default=["emoji"])
            each.add_argument("--regimes", type=names, default=["scratch"], help=", ".join(REGIMES))
            each.add_argument("--time", type=seconds, help="as 30m: begin no trial after it")
            each.add_argument("--threads", type=int, default=1)
            each.add_argument(
                "--scale", type=scales, default=[1.0], help="of the regime's epochs, as 1,0.5"
            )
            each.add_argument("--oml", help="Python with open-metric-learning, for oml_...")
            each.add_argument("--max-steps", type=int, help="for a try: end after so many steps")
        if name == "run":
            each.add_argument("--methods", type=names, required=True, help=", ".join(METHODS))
            each.add_argument("--seeds", type=numbers, default=[0])
            each.add_argument("--again", action="store_true", help="run what is done already, too")
            each.add_argument("--dry", action="store_true", help="only list the missing trials")
        if name == "tune":
            each.add_argument("--method", required=True, help=", ".join(METHODS))
            each.add_argument("--trials", type=int, required=True)
        if name == "table":
            each.add_argument("--reference", default="ours", help="of the differences")
        if name in ("overview", "effects"):
            each.add_argument("--scale", type=float, default=1.0, help="of the regime's epochs")
        if name == "plot":
            each.add_argument("--output", type=Path, help="default FOLDER/quality.svg")
    return parser.parse_args()


def check(study: Study, sets: Sequence[str], regimes: Sequence[str], held_out: bool) -> None:
    """Refuse what is not there before anything runs."""
    lists = ("train_fit.txt", "train_dev.txt") if held_out else ("train.txt", "test.txt")
    for regime in regimes:
        if regime not in REGIMES:
            raise StudyError(f"there is no regime {regime!r}; there are {', '.join(REGIMES)}")
        weights = REGIMES[regime].weights
        if weights is not None and not (study.data / "weights" / weights).exists():
            raise StudyError(f"{study.data / 'weights' / weights}: not there; {regime} needs it")
    for name in sets:
        for file in lists:
            if not (study.data / name / file).exists():
                raise StudyError(f"{study.data / name / file}: not there; see --data")


def run_all(study: Study, trials: Sequence[Trial], given: argparse.Namespace, again: bool) -> int:
    """Run the missing trials in their order until the time is over; how many failed."""
    began, failed, taken = time.monotonic(), 0, {}
    todo = list(trials) if again else study.missing(trials)
    print(f"{len(todo)} of {len(trials)} trials to run")
    for number, trial in enumerate(todo, 1):
        left = None if given.time is None else given.time - (time.monotonic() - began)
        similar = (trial.regime, trial.set, trial.scale, trial.method == "frozen")
        if left is not None and left < taken.get(similar, 0.0):
            continue  # a shorter one may still fit
        with study.claim(trial) as own:
            if not own or (not again and not study.missing([trial])):
                continue
            what = f"{trial.set} {trial.regime} {trial.method} x{trial.scale:g} seed {trial.seed}"
            print(f"[{number}/{len(todo)}] {what}", end=": ", flush=True)
            start = time.monotonic()
            problem = study.run(trial)
            taken[similar] = time.monotonic() - start
        if problem:
            failed += 1
            print(f"FAILED: {problem}")
            continue
        print(_said(study, trial))
    return failed


def _said(study: Study, trial: Trial) -> str:
    file = TUNING if trial.held_out else "trials.jsonl"
    line = next(line for line in study.lines(file) if line["key"] == trial.key)
    end = line["end"]
    scores = f"{100 * end['recall_at_1']:.1f} / {100 * end['map_at_r']:.1f}"
    return f"{scores}  {line['cpu_seconds']:.0f} s of CPU  {line['note']}".rstrip()


def run(study: Study, given: argparse.Namespace) -> int:
    for name in given.methods:
        Method.parse(name)
    check(study, given.sets, given.regimes, held_out=False)
    trials = in_order(given.sets, given.regimes, given.methods, given.seeds, given.scale)
    for trial in trials:
        study.settings(trial)  # of tuned methods: are they there
    if given.dry:
        for trial in study.missing(trials):
            print(trial)
        return 0
    return run_all(study, trials, given, given.again)


def tune(study: Study, given: argparse.Namespace) -> int:
    method = Method.parse(given.method)
    if method.tuned or method.settings or method.base in ("frozen", "component"):
        raise StudyError(f"--method {given.method}: give a name alone, of ours or a peer")
    check(study, given.sets, given.regimes, held_out=True)
    trials: dict[Trial, None] = {}
    for number in range(given.trials):
        for regime in given.regimes:
            drawn = draw(method.base, number, pretrained=REGIMES[regime].weights is not None)
            name = method_name(method.base, drawn)
            for each in given.sets:
                for scale in given.scale:
                    trial = Trial(each, regime, name, scale, 0, held_out=True)
                    trials[frozen_of(trial)] = None
                    trials[trial] = None
    return run_all(study, list(trials), given, again=False)


def main() -> int:
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the trial in progress, too
    study = Study(
        given.folder,
        given.data or given.folder.resolve().parent / "sets",
        threads=getattr(given, "threads", 1),
        max_steps=getattr(given, "max_steps", None),
        oml=getattr(given, "oml", None),
    )
    try:
        given.folder.mkdir(parents=True, exist_ok=True)
        if given.command == "run":
            return 1 if run(study, given) else 0
        if given.command == "tune":
            return 1 if tune(study, given) else 0
        if given.command == "table":
            print(table(study, given.reference), end="")
            return 0
        if given.command == "overview":
            print(overview(study, given.scale), end="")
            return 0
        if given.command == "effects":
            print(effects(study, given.scale), end="")
            return 0
        require("matplotlib")
        path = given.output or given.folder / "quality.svg"
        plot(study, path)
        print(path)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
