"""Duels in a process of their own.

What one contender leaves behind may slow the next: after a collective of gloo, whose threads
have thread pools too, the threads of OpenMP sleep between operations instead of spinning, and
each small operation of the process takes 50 us more.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import torch

from head_contender import Shape
from head_measure import Duel, duel
from head_plan import ALL


def duel_in_child(
    ours: str, theirs: str, shape: Shape, rounds: int, seconds: float, allowed: float, threads: int
) -> Duel:
    """`lookalike`'s head and another by their names; see `head_measure.duel`.

    Args:
        ours: name of A.
        theirs: name of B.
        shape: what both share.
        rounds: pairs of turns.
        seconds: after so many no further round begins, once there are three.
        allowed: difference between their first steps.
        threads: of torch.

    Raises:
        NotRunError: one cannot run here, or they differ by more than `allowed`.
        RuntimeError: out of memory, among others.
        BrokenProcessPool: the process was killed.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_duel, ours, theirs, shape, rounds, seconds, allowed, threads).result()


def _duel(
    ours: str, theirs: str, shape: Shape, rounds: int, seconds: float, allowed: float, threads: int
) -> Duel:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return duel(ALL[ours], ALL[theirs], shape, rounds, seconds, allowed)
