"""Training runs: their parts, the loop, and their files."""
