"""`python -m lookalike` is `lookalike`: what torchrun starts."""

from lookalike.cli import main

if __name__ == "__main__":
    main()
