"""A process in which `embed` is killed again and again.

    embed_process.py MODEL LIST OUTPUT     for each line "N" on stdin: a child embeds, and is killed
                                           at its N-th step that touches the disk

It prints "killed" or "whole" for each. The child is a fork of a process that has imported it all.
"""

import os
import signal
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # a fork has one thread only

import pathlib

import lookalike.commands.embed as command


def die_at(number: int) -> None:
    """Kill this process when it is about to rename, to sync or to remove for the N-th time."""
    left = number

    def counted(real):
        def call(*arguments, **more):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **more)

        return call

    os.fsync = counted(os.fsync)
    os.unlink = counted(os.unlink)
    pathlib.Path.replace = counted(pathlib.Path.replace)
    pathlib.Path.unlink = counted(pathlib.Path.unlink)


def main() -> None:
    model, images, output = sys.argv[1:]
    command.PART_SIZE = 64
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)
            die_at(int(line))
            command.embed(model, images, output, threads=1, device="cpu")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else "whole", status, flush=True)


if __name__ == "__main__":
    main()
