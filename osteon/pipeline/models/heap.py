"""How the C library's heap treats memory that is freed: it keeps it for what comes next.

Called once by each process that computes, through `osteon.pipeline.workers.warm`, and by
`osteon.pipeline.models.sliding`. Nothing happens where the library is not glibc.
"""

import numpy as np

# What glibc's malloc hands back to the system at once is, at most, of this size. It starts far
# lower and goes up, with twice as much for the end of its heap, to the largest that a process has
# freed. Below it the kernel clears the same memory again for each slice or window, page by page,
# which costs the model of bones half of its time for a slice, and a small network a quarter.
FREED_BYTES = 2**25 - 2**14  # With its head, and rounded up to pages.


def keep_freed() -> None:
    """Have freed memory kept: up to 32 MiB in one piece, and up to 64 MiB at the heap's end."""
    np.empty(FREED_BYTES, np.uint8)  # Never touched; freed here and now.
