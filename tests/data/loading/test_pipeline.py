"""Order, bounds and threads of the pipeline, with jobs that read nothing."""

import threading
import time

import pytest
import torch

from lookalike.data.loading.image_source import Source
from lookalike.data.loading.pipeline import Job, pipeline


def data_threads():
    return [t for t in threading.enumerate() if t.name.startswith("lookalike-data")]


def job(pieces, run=lambda piece: None, result=lambda: None):
    return Job([None] * pieces, lambda: (lambda piece, _: run(piece), result))


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_a_failing_job_comes_after_the_good_ones_before_it(threads):
    def numbered(number):
        def run(piece):
            time.sleep(0.002 * (3 - piece))
            if number == 2:
                raise KeyError(number)

        return job(3, run, lambda: number)

    seen = []
    with pytest.raises(KeyError, match="2"):
        seen.extend(pipeline(map(numbered, range(5)), source=Source(threads=threads), ahead=3))
    assert seen == [0, 1]


@pytest.mark.parametrize("threads", [1, 4])
def test_work_ahead_is_bounded(threads):
    started = []

    def jobs():
        for number in range(50):
            started.append(number)
            yield job(2)

    results = pipeline(jobs(), source=Source(threads=threads), ahead=3)
    next(results)
    assert len(started) == 4
    next(results)
    assert len(started) == 5
    results.close()
    assert len(started) == 5
    assert not data_threads()


def test_threads_compute_alone_and_leave_the_setting_to_others():
    before, seen = torch.get_num_threads(), []
    jobs = [job(1, lambda _: seen.append(torch.get_num_threads())) for _ in range(6)]
    torch.set_num_threads(2)
    try:
        list(pipeline(iter(jobs), source=Source(threads=3)))
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
        later = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [2]
    finally:
        torch.set_num_threads(before)


def test_a_job_starts_when_its_turn_is_near_and_is_forgotten_with_its_result():
    class Memory:
        pass

    alive, most = set(), []

    def jobs():
        for _ in range(20):

            def start():
                memory = Memory()
                alive.add(id(memory))
                most.append(len(alive))
                gone = alive.discard

                def result(memory=memory):
                    gone(id(memory))
                    return memory

                return (lambda *_: None), result

            yield Job([None], start)

    for _ in pipeline(jobs(), source=Source(threads=2), ahead=2):
        pass
    assert max(most) == 3
