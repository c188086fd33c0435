"""`lookalike embed`: vectors of images in a file, or in the index of a database."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Unpack

from lookalike import log, storage
from lookalike.commands.embed_parts import (
    PART_SIZE,
    EmbeddingTask,
    shared_parts,
)
from lookalike.commands.keyword_groups import split_keywords
from lookalike.commands.models import load
from lookalike.commands.read_options import ReadKeywords, ReadOptions
from lookalike.commands.run_lists import joiner_of, lists_of
from lookalike.data.inputs import place_of, places_of, read_places
from lookalike.data.loading.bad_images import none_readable, warn_left_out
from lookalike.data.read_files import check_not_read
from lookalike.data.readers.annotation import UNLABELLED
from lookalike.data.readers.streams import is_stream, keep_list
from lookalike.data.record import Record
from lookalike.data.shared_records import read_once
from lookalike.distributed.launch import in_worker, launch, report_to_launcher
from lookalike.distributed.world import World
from lookalike.errors import ConfigError, check_integer
from lookalike.index.index import Index
from lookalike.index.store_address import check_client, check_vectors_place, is_store_address
from lookalike.index.stored_parts import IndexedParts, StoredParts
from lookalike.index.sync import records_at
from lookalike.log import Bar, logger
from lookalike.storage import Place
from lookalike.storage.cache_folder import cache_entry
from lookalike.storage.file_lock import locked
from lookalike.storage.output_checks import check_distinct, check_output_file
from lookalike.vectors.vector_files import beside, is_array
from lookalike.vectors.vector_parts import Parts, merge, outdated

_COUNT = "count"


def embed(
    model: Place,
    images: Place | Iterable[Place],
    output: Place,
    *,
    workers: int = 1,
    restart: bool = False,
    **read: Unpack[ReadKeywords],
) -> int:
    """Embed images into a file; started again after a kill, it resumes.

    Vectors are those of evaluation, to the bit. Finished parts are kept in a folder beside the
    output (for a remote one, in the user's cache) and merged at the end. Under torchrun on several
    machines they are kept beside a remote output too, and each machine may be lost and come back.

    Args:
        model: an output directory, a model folder, or an exported `.onnx` file.
        images: folders, lists, tables, patterns or images; see `lookalike.data.inputs`.
        output: `NAME.parquet` with the columns path, label and vector, or `NAME.npy` with the
            vectors beside `NAME.paths.txt` with their paths, line by line, and
            `NAME.labels.txt` where labels are known; on this machine or in object storage. Or an
            index in a database, as `qdrant://HOST:6334/COLLECTION` or
            `postgresql://USER@HOST/DATABASE/TABLE`, which is made where there is none: each part
            goes there as it is ready.
        workers: processes on this machine, each with its own GPU where there are any.
        restart: drop the parts of an earlier attempt for this output.
        read: `threads`, `cache`, `cache_size`, `requests`, `allow_truncated`, `path_column`,
            `label_column`, `image_root` and `device`, as in
            `lookalike.commands.read_options.ReadOptions`.

    Returns:
        The number of embedded images; on several machines, into a database, those of this worker.
        Unreadable ones are named in warnings and left out.

    Raises:
        LookalikeError: no model, no images, none that can be read, or an earlier attempt for
            this output with another model or other images.
    """
    model, output, places = (
        place_of("model", model),
        place_of("output", output),
        places_of("images", images),
    )
    check_vectors_place(output)
    files: list[str] = []
    if not is_store_address(output):
        texts = [beside(output, name) for name in ("paths", "labels")] if is_array(output) else []
        files = [output, *texts]
        for file in files:
            check_output_file(file)
        check_distinct(files, places)
    check_integer("workers", workers, 1)
    options = ReadOptions(**split_keywords(embed, read, ReadKeywords)[0])
    check_client(output)
    if workers > 1 and not in_worker():
        places = [
            _kept(place, options, joiner_of(model)) if is_stream(place) else place
            for place in places
        ]
        words = ["embed", "--output", output, *options.flags(), *["--restart"] * restart]
        with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
            again = "The same command again resumes it"
            arguments = [*words, "--", os.fspath(model), *map(os.fspath, places)]
            launch(workers, arguments, folder, again)
            return int((Path(folder) / _COUNT).read_text())
    place = World.unjoined(options.device)
    joined = nullcontext(place) if place.on_several_machines else World.from_env(options.device)
    with joined as world:
        # On several machines into a database, each worker logs its own images.
        usual = logging.WARNING if is_store_address(output) else logging.ERROR
        log.start(logging.INFO if world.is_main else usual)
        embedder = load(model, device=options.device)
        read_images = records_at if is_store_address(output) else read_places
        known = lists_of(model, layout=options.layout)
        read_list = partial(read_images, places, known, options.layout, joiner_of(model))
        source = options.source([model])
        if world.on_several_machines:  # workers that do not wait for each other
            run = _share_into_index if is_store_address(output) else _embed_on_machines
            records = read_list()
        else:
            run, records = _embed, read_once(read_list, world)
        if world.is_main:
            check_not_read(files, records)
        task = EmbeddingTask(embedder, records, source, world, PART_SIZE)
        count = run(task, output, restart)
        if world.is_main:
            report_to_launcher(_COUNT, str(count))
        return count


def _kept(stream: str, options: ReadOptions, joiner: str) -> str:
    """The path of a table of the images of a stream, which workers read with the same options."""
    layout = options.layout
    return keep_list(
        read_places([stream], layout=layout, joiner=joiner), UNLABELLED.with_layout(layout)
    )


def _embed(task: EmbeddingTask, output: str, restart: bool) -> int:
    world = task.world
    with ExitStack() as stack:
        parts = Parts(_work_folder(output), task.request)
        if is_store_address(output):
            parts = stack.enter_context(_into_index(task, parts, output))
        if world.is_main:
            lock = parts.folder.with_name(parts.folder.name + ".lock")
            lock.parent.mkdir(parents=True, exist_ok=True)
            busy = f"{storage.public(output)}: another process is embedding into this file"
            stack.enter_context(locked(lock, busy))
            stack.callback(lock.unlink, missing_ok=True)
            parts.begin(restart=restart)
        # Gathered, not looked up by each: a faster worker may have made a part meanwhile.
        missing = world.broadcast_object(parts.missing() if world.is_main else [])
        _make(task, parts, missing)
        return _finish(parts, task.records, output) if world.is_main else 0


@contextmanager
def _into_index(task: EmbeddingTask, parts: Parts, output: str) -> Iterator[Parts]:
    """The parts of an index, which the main worker makes where there is none."""
    if task.world.is_main:
        Index.open_or_create(output, embedder=task.embedder).close()
    task.world.barrier()
    with Index.open(output, task.embedder) as index:
        yield StoredParts(parts.folder, task.request, index, task.records)


def _work_folder(output: str) -> Path:
    if storage.is_remote(output):
        return cache_entry("embedding", output)
    path = Path(storage.local_path(output))
    return path.with_name(f".{path.name}.parts")


def _make(task: EmbeddingTask, parts: Parts, missing: Sequence[int]) -> None:
    """Make each worker's share of the missing parts; the main one then waits for all."""
    request, world = task.request, task.world
    left = sum(len(request.rows(number)) for number in missing)
    if left < request.count:
        logger.info(
            "resumed: %s of %s images were done before (%s)",
            f"{request.count - left:,}", f"{request.count:,}", parts.folder,
        )  # fmt: skip
    began = time.monotonic()
    before = request.count - left
    with Bar("embedding", request.count, before, unit="images", quiet=not world.is_main) as bar:
        task.make(parts, missing[world.rank :: world.size], bar, world.size)
        while world.is_main and parts.missing():  # torchrun ends this worker if another fails
            time.sleep(0.2)
    if left:
        seconds = time.monotonic() - began
        logger.info(
            "%s in %s, %.1f images/s",
            log.counted(left, "image"), log.duration(seconds), left / seconds,
        )  # fmt: skip


def _embed_on_machines(task: EmbeddingTask, output: str, restart: bool) -> int:
    """Make this worker's parts, then those that others have not made; worker 0 merges them.

    Workers do not wait for each other, so that each may be killed, and start again, alone.
    """
    request, world = task.request, task.world
    name = storage.public(output).rsplit("/", 1)[-1]
    with shared_parts(storage.resolve(f".{name}.parts", output), request, world.rank) as parts:
        if restart:
            raise ConfigError(
                f"--restart is for one machine: several do not wait for each other; remove "
                f"{storage.public(parts.place)} before the command"
            )
        if not parts.begin() and storage.exists(output):
            logger.info(
                "%s: is complete; to make it again, remove %s",
                storage.public(output), storage.public(parts.place),
            )  # fmt: skip
            return 0
        missing = parts.missing()
        mine = [number for number in missing if number in task.mine]
        if len(missing) < request.parts:
            done = f"{request.parts - len(missing):,} of {request.parts:,}"
            logger.info("resumed: %s parts are done (%s)", done, storage.public(parts.place))
        while missing:
            # Of other machines, which are slower or lost, one at a time, the last ones first.
            numbers = mine or [missing[-1 - world.rank % len(missing)]]
            task.make_own(parts, numbers)
            missing, mine = parts.missing(), []
        if not world.is_main:
            return 0
        parts.fetch(range(request.parts))
        found = _finish(parts.local, task.records, output)
        parts.end()
        return found


def _share_into_index(task: EmbeddingTask, output: str, restart: bool) -> int:
    """Put this worker's parts into an index, as far as it lacks them.

    Workers do not wait for each other, and none makes the parts of another: the index does not say
    which images cannot be read.
    """
    request, mine = task.request, task.mine
    with Index.open_or_create(output, embedder=task.embedder) as index:
        parts = IndexedParts(request, index, task.records)
        missing = list(mine) if restart else parts.missing(mine)
        if len(missing) < len(mine):
            done = f"{len(mine) - len(missing):,} of the {len(mine):,} parts of this worker"
            logger.info("resumed: %s are in %s", done, index.place)
        task.make_own(parts, missing)
        index.compact()  # by each: the last one finds all rows
        warn_left_out(task.records, parts.bad)
        vectors = log.counted(parts.count, "vector")
        logger.info("%s: %s of %d by this worker", index.place, vectors, request.dim)
        return parts.count


def _finish(parts: Parts, records: Sequence[Record], output: str) -> int:
    """Make the output of the parts, and remove them."""
    count = parts.sizes()
    bad = {row: reason for part in parts.all() for row, reason in part.bad.items()}
    if count == 0:
        parts.remove()
        raise none_readable(records, bad)
    if isinstance(parts, StoredParts):
        parts.index.compact()
    else:
        _put_files(parts, records, output)
    parts.remove()
    warn_left_out(records, bad)
    vectors = log.counted(count, "vector")
    logger.info("%s: %s of %d", storage.public(output), vectors, parts.request.dim)
    return count


def _put_files(parts: Parts, records: Sequence[Record], output: str) -> None:
    """Merge the parts and put the files in their place."""
    name = storage.public(output).rsplit("/", 1)[-1]
    files = merge(parts, records, parts.folder / "merged", name)
    for old in outdated(name, files):
        place = storage.resolve(old, output)
        if not storage.is_remote(place):
            Path(storage.local_path(place)).unlink(missing_ok=True)
        elif storage.exists(place):
            storage.remove_file(place)
    for file in files:
        place = storage.resolve(file.name, output)
        if storage.is_remote(output):
            storage.write_file(file, place)
        else:
            file.replace(storage.local_path(place))
