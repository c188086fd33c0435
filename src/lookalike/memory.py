"""Large pages for the tensors of a CPU."""

import os

_TORCH_SETTING = "THP_MEM_ALLOC_ENABLE"


def ask_for_large_pages() -> None:
    """Have torch ask the kernel for pages of 2 MB where a tensor is as large; before torch's first.

    glibc gives blocks above 32 MB back as soon as they are freed, and the next step pays anew for
    every page of the same sizes: the kernel must find it, clear it and map it. There are 512 times
    fewer pages to pay for then. Who sets torch's variable decides otherwise.

    Keeping freed memory instead (glibc's `mallopt`) was tried: small blocks settle in the gaps, so
    that a block of the same size does not fit there any more, and the heap grows.
    """
    os.environ.setdefault(_TORCH_SETTING, "1")
