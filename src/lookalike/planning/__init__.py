"""What a run needs before it runs: bytes, traffic and seconds for each worker.

`footprint` measures a network without computing it, `memory` adds up the bytes of a step,
`traffic` what the workers tell each other, `speed` the seconds on a `machines.Machine` (measured
by `calibrate`, or published), and `estimate` puts them together and tries other settings.
"""
