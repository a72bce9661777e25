"""Weights are read part by part where a process holds parts."""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from ling.checkpoint.dcp.local import local_box, local_part
from ling.checkpoint.hf.save import save_model
from ling.checkpoint.load import fill, load_model
from ling.checkpoint.open import open_source
from ling.convert.plan import convert
from ling.model.ling import Ling, from_config, to_dtype
from ling.presets import preset

CFG = preset("ling-tiny").replace(num_nextn_predict_layers=1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same weights in several formats."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "hf").mkdir()
    save_model(from_config(CFG, seed=1), CFG, folder / "hf")
    for to in ("dcp", "megatron", "fp8", "int8"):
        convert(folder / "hf", folder / to, to=to)
    return folder


@pytest.fixture
def mesh():
    """As the last process of 4, which sees no other: experts over 2, the rest of them over 2.

    Always the last: torch remembers in this process which part a rank has.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=3, world_size=4)
    yield init_device_mesh("cpu", (2, 2), mesh_dim_names=("expert_shard", "ep"))
    dist.destroy_process_group()


def sharded(mesh):
    """A network whose weights are spread as FSDP and expert parallelism do it."""
    with torch.device("meta"):
        model = Ling(CFG)
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            expert = p.ndim == 3
            over, how = (mesh, [Shard(1), Shard(0)]) if expert else (mesh["ep"], [Shard(0)])
            part = distribute_tensor(p.detach(), over, how, src_data_rank=None)
            module.register_parameter(name, nn.Parameter(part))
    return model.to_empty(device="cpu")


@pytest.mark.parametrize("form", ["hf", "dcp", "megatron", "fp8", "int8"])
def test_a_process_gets_its_part_of_every_weight(folders, mesh, form):
    whole = load_model(folders / form, dtype="float32").state_dict()
    with contextlib.closing(open_source(folders / form)) as source:
        model = sharded(mesh)
        assert local_box(model.get_parameter("lm_head.weight"))[0][0] > 0
        fill(model, source)
        for name, target in model.state_dict().items():
            want = whole[name]
            for dim, (first, count) in enumerate(zip(*local_box(target), strict=True)):
                want = want.narrow(dim, first, count)
            assert torch.equal(local_part(target), want), name


def test_nothing_else_is_read(folders, mesh, monkeypatch):
    read, boxes = [], []
    with contextlib.closing(open_source(folders / "hf")) as source:
        model = sharded(mesh)
        kind = type(source)
        monkeypatch.setattr(kind, "values", lambda self, name: pytest.fail(name))
        into, box = kind.read_into, kind.box
        monkeypatch.setattr(
            kind, "read_into", lambda self, n, t: read.append(t.numel()) or into(self, n, t)
        )
        monkeypatch.setattr(kind, "box", lambda self, n, *at: boxes.append(n) or box(self, n, *at))
        fill(to_dtype(model, torch.bfloat16), source)
        assert {n.split(".experts.")[1].split(".")[0] for n in boxes if ".experts." in n} == {
            str(e) for e in range(CFG.num_experts // 2, CFG.num_experts)
        }
        biases = sum(b.numel() for n, b in model.named_buffers() if n.endswith("expert_bias"))
        assert sum(read) == biases  # the only ones that are whole here
