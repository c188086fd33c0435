"""The command `lookalike`, and `python -m lookalike`, which torchrun starts.

Nothing that takes time is imported before Ctrl-C is handled.
"""

from lookalike.distributed import signals


def main() -> None:
    """Run the program."""
    signals.handle()
    from lookalike.cli import main as run

    run()


if __name__ == "__main__":
    main()
