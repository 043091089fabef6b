"""Where the PyTorch side computes: on the GPU where both frameworks see one, else on the CPU.

Needs torch, and runs in its process (``benchmark.torch_process``), as all modules ``benchmark.torch_*`` but
that one. None of them imports TensorFlow.
"""

from __future__ import annotations

import numpy as np
import torch

# As TensorFlow has it, so that equals are timed; PyTorch's own default is for convolutions only.
torch.backends.cuda.matmul.allow_tf32 = True

# Where TensorFlow sees none, ``benchmark.torch_worker`` hides it.
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_device(array) -> torch.Tensor:
    """An array on ``DEVICE``."""
    return torch.from_numpy(np.array(array)).to(DEVICE)


def to_images(images: np.ndarray) -> torch.Tensor:
    """Preprocessed images [B, H, W, 3] to [B, 3, H, W] in channels_last."""
    return to_device(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The other way; waits for the device."""
    return tensor.detach().cpu().numpy()


def constant(values, like: torch.Tensor) -> torch.Tensor:
    """A small tensor of numbers that stand in the code, beside ``like`` and of its type."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)
