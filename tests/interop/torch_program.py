"""Writes files with PyTorch, and what it has in them: ``torch_program.py FOLDER``, in a process of its own.

``<content>_<format><protocol>.pth`` by ``torch.save``, ``<content>.npz`` the arrays expected. The files in
``torch_files`` were made by it.
"""

import collections
import pathlib
import sys

import numpy as np
import torch

DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128".split()
NEW_DTYPES = "uint16 uint32 uint64 float8_e4m3fn float8_e5m2".split()


def views(dtypes):
    """Tensors of every dtype and kind of view."""
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    state = collections.OrderedDict(
        transposed=base.transpose(0, 2),
        offset=base[1, 1:],
        strided=base[:, ::2, 1::2],
        expanded=torch.tensor([1.5]).expand(3, 2),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(torch.full((2, 2), 3.0)),
        buffer=torch.nn.Buffer(torch.full((2,), 4.0)),
        attribute=torch.ones(3),
    )
    state["attribute"].extra = 5
    for dtype in dtypes:
        values = torch.tensor([0, 1, 3, 100], dtype=torch.float32)
        state[dtype] = values.to(getattr(torch, dtype))
    return state


def checkpoint():
    """A training checkpoint of a network with batch norm, and what goes with it."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    network(torch.rand(4, 2)).pow(2).sum().backward()
    optimizer.step()
    schedule.step()
    return {
        "model": torch.nn.DataParallel(network).state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "epoch": 3,
        "others": [torch.device("cpu"), torch.Size([1, 2]), {1, 2}, 1j, torch.float16, b"\xff", None, 0.5],
    }


def arrays(state):
    """As numpy has them; float32 for what it lacks."""
    result = {}
    for key, value in state.items():
        lacking = value.dtype == torch.bfloat16 or str(value.dtype).startswith("torch.float8")
        result[key.removeprefix("module.")] = (value.float() if lacking else value).detach().numpy()
    return result


def main(folder):
    """Writes everything."""
    folder.mkdir(exist_ok=True)
    contents = {"old": views(DTYPES), "new": views(DTYPES + NEW_DTYPES), "checkpoint": checkpoint()}
    for name, content in contents.items():
        np.savez(folder / f"{name}.npz", **arrays(content.get("model", content)))
        for new in (False, True):
            for protocol in (2, 3, 4, 5) if name != "new" or new else ():
                path = folder / f"{name}_{'zip' if new else 'stream'}{protocol}.pth"
                torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
