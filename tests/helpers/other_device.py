"""A device that is not the CPU, on a machine without one: `with OtherDevice(): ...`.

`python other_device.py FOLDER` trains on it. Its tensors keep their values in CPU tensors. An
operation with tensors of both devices is an error, as on a GPU; every wait for a value is noted.
For processes of their own: a device of torch's cannot be taken back.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import ClassVar

import layouts
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

from ling.train import loop, setup
from ling.train.parallel.group import ALONE
from ling.train.step import train_step

NAME = "other"
# What a GPU takes from the CPU too: copies.
COPIES = (
    torch.ops.aten.copy_.default,
    torch.ops.aten._foreach_copy_.default,
    torch.ops.aten._to_copy.default,
)


class Elsewhere(torch.Tensor):
    """A tensor of the other device; `values` is what it would be on the CPU."""

    @staticmethod
    def __new__(cls, values, requires_grad=False):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=torch.device(NAME, 0),
            requires_grad=requires_grad,
        )
        tensor.values = values
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        with OtherDevice() as mode:
            return mode.__torch_dispatch__(func, types, args, kwargs)


class OtherDevice(TorchDispatchMode):
    """`waits` names the operations that read a value back."""

    waits: ClassVar[list[str]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        here = [t for t in tensors if not isinstance(t, Elsewhere)]
        there = [t for t in tensors if isinstance(t, Elsewhere)]
        if here and there and func not in COPIES:
            # A number on the CPU may meet a tensor in arithmetic, where it is read at once.
            shapes = [(list(t.shape), t.dtype, t.device.type) for t in tensors]
            assert all(t.ndim == 0 for t in here), f"{func} has tensors of two devices: {shapes}"
        wanted = kwargs.get("device")
        if wanted is not None:
            kwargs["device"] = torch.device("cpu")
        out = func(*pytree.tree_map(_values, args), **pytree.tree_map(_values, kwargs))
        away = torch.device(wanted).type == NAME if wanted is not None else bool(there)
        if there and (not away or func is torch.ops.aten._local_scalar_dense.default):
            self.waits.append(str(func))
        if not away or func is torch.ops.aten._local_scalar_dense.default:
            return out
        # What an operation changes in place is the same tensor afterwards.
        known = {id(t.values): t for t in there}

        def moved(x):
            if not isinstance(x, torch.Tensor):
                return x
            return known[id(x)] if id(x) in known else Elsewhere(x)

        return pytree.tree_map(moved, out)


def _values(x):
    return x.values if isinstance(x, Elsewhere) else x


class Stream:
    """Work is done when it is given: there is nothing to wait for."""

    def wait_stream(self, other):
        pass

    def synchronize(self):
        pass


class Module(_DummyBackendModule):
    """What `torch.cuda` is to a GPU, as far as torch asks for it."""

    Stream = Stream

    def current_stream(self):
        return Stream()

    def stream(self, stream):
        return contextlib.nullcontext()

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


def register():
    """Make torch know the device."""
    _setup_privateuseone_for_python_backend(NAME, Module())


# ---- a run on it -------------------------------------------------------------------------------


def main(folder: Path) -> None:
    """Trains on FOLDER/text on both devices, the second half of one run on the other, too."""
    register()
    layouts.STEPS, layouts.HALF = 4, 2
    waits: dict[str, list[list[str]]] = {}
    for name, degrees in {"one": {}, "full": {"recompute": "full"}, "bf16": {}}.items():
        loop.run_in(ALONE, layouts.recipe(folder, name, degrees), folder / name, layouts.quiet)
    layouts.first_half(folder / "one", folder / "one, then other")
    setup.choose_device = lambda wanted: torch.device(NAME, 0)
    with OtherDevice() as mode:
        for name in ("one", "full", "bf16"):
            degrees = {"recompute": name} if name == "full" else {}
            waits[name] = []
            loop.train_step = counting(mode, waits[name])
            out = folder / f"other {name}"
            loop.run_in(ALONE, layouts.recipe(folder, name, degrees), out, layouts.quiet)
        out = folder / "one, then other"
        loop.run_in(ALONE, layouts.recipe(folder, "one", {}), out, layouts.quiet)
    (folder / "waits.json").write_text(json.dumps(waits))


def counting(mode: OtherDevice, waits: list[list[str]]):
    """`train_step` that notes what each step waited for."""

    def step(*args):
        mode.waits.clear()
        done = train_step(*args)
        waits.append(list(mode.waits))
        return done

    return step


if __name__ == "__main__":
    main(Path(sys.argv[1]))
