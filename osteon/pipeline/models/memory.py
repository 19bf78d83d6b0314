"""Memory for what a network sees and says, of which a processor needs much at once.

A shape and a device enter, a tensor leaves. Called by `osteon.pipeline.models.inputgrid` and
`osteon.pipeline.models.sliding`.
"""

from collections.abc import Sequence

import numpy as np
import torch


def empty(shape: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return float32 memory that is yet to be written to.

    On a CPU it is in large pages, for which NumPy asks: the kernel finds and clears them, and takes
    them back, several times faster than small ones.
    """
    if device.type == "cpu":
        return torch.from_numpy(np.empty(shape, np.float32))
    return torch.empty(tuple(shape), device=device)
