"""Where the PyTorch side computes: on the GPU where both frameworks see one, else on the CPU.

Needs torch; nothing of fgfi_tf imports this module.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmark.options import has_gpu

# As TensorFlow has it, so that equals are timed; PyTorch's own default is for convolutions only.
torch.backends.cuda.matmul.allow_tf32 = True

DEVICE = torch.device("cuda" if has_gpu() and torch.cuda.is_available() else "cpu")


def to_device(array) -> torch.Tensor:
    """An array, or a tensor of TensorFlow's, on ``DEVICE``."""
    return torch.from_numpy(np.array(array)).to(DEVICE)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The other way; waits for the device."""
    return tensor.detach().cpu().numpy()


def constant(values, like: torch.Tensor) -> torch.Tensor:
    """A small tensor of numbers that stand in the code, beside ``like`` and of its type."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)
