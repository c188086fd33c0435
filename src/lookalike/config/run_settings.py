"""Places and devices."""

from typing import Literal

from pydantic import Field

from lookalike.config.section import Section


class RunConfig(Section):
    """Where the results go and who computes."""

    output: str | None = None
    """Directory for everything the run writes, or its URI in object storage. Required."""
    workdir: str | None = None
    """Where a run with a URI as its output is written on each machine before it is uploaded; by
    default a folder of the user's cache directory."""
    workers: int = Field(1, ge=1, le=1024)
    """Processes on this machine, started through torchrun."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; `auto` takes CUDA devices when there are any."""
