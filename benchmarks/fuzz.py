"""Damaged inputs of every kind: each must be read, or refused in one clear error.

    python benchmarks/fuzz.py --inputs 100000
    python benchmarks/fuzz.py --inputs 2000 --only settings

Targets (`fuzz_targets.py`): lists, manifests, tables, shards, settings, model folders, index
folders, keys in object storage. Each gets its share of inputs: a sound file in which bytes, tokens
and lines were changed, repeated, cut out or swapped, a JSON document in which values were replaced,
or nonsense from the target's own vocabulary. Anything but a sensible result or a LookalikeError
(exit code 2 for the user) ends the run with the input that caused it.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

from fuzz_targets import Target, targets
from lookalike.errors import LookalikeError


def attempt(target: Target, data: bytes) -> str:
    """Use one input: "read" or "refused".

    Raises:
        BaseException: anything else came of it.
    """
    try:
        target.use(data)
    except LookalikeError as error:
        if not str(error).strip():
            raise
        return "refused"
    return "read"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs in all")
    parser.add_argument("--only", help="targets whose name contains this text")
    parser.add_argument("--seed", type=int, default=None, help="of the damage; random by default")
    options = parser.parse_args()
    seed = random.randrange(2**32) if options.seed is None else options.seed
    print(f"seed {seed}")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LOOKALIKE_CACHE"] = f"{folder}/cache"
        with targets(Path(folder)) as found:
            chosen = [t for t in found if options.only is None or options.only in t.name]
            share = options.inputs / sum(target.weight for target in chosen)
            for target in chosen:
                counts, began = Counter[str](), time.monotonic()
                for _ in range(max(1, round(share * target.weight))):
                    data = target.damaged(rng)
                    try:
                        counts[attempt(target, data)] += 1
                    except BaseException:
                        place = Path(f"fuzz-input-{target.name.replace(' ', '-')}")
                        place.write_bytes(data)
                        print(f"{target.name}: the input is in ./{place}", file=sys.stderr)
                        raise
                print(
                    f"{target.name:24} {sum(counts.values()):7,} inputs: {counts['read']:6,} read, "
                    f"{counts['refused']:6,} refused, {time.monotonic() - began:6.1f} s",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
