"""Fine-tuning over packed weights (`method: qlora`)."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

from ling.checkpoint.load import fill
from ling.checkpoint.open import config_at, open_source
from ling.config.engine import EngineConfig
from ling.config.parallel import ParallelConfig
from ling.config.sft import ChatDataConfig, LoRAConfig, SFTConfig, SFTTrainConfig
from ling.convert.plan import convert
from ling.convert.synth import synth
from ling.errors import UsageError
from ling.infer.open import open_runner
from ling.infer.pages import Segment
from ling.model.attention import DenseAttend
from ling.ops import kernels
from ling.ops.formats import integer_formats
from ling.presets import preset
from ling.train.lora.table import rows as table
from ling.train.loss import cross_entropy
from ling.train.network import build_network
from ling.train.packed import place
from ling.train.packed.place import check_packed

TINY = preset("ling-tiny")
# All experts are chosen: rounding cannot flip a choice.
SMALL = TINY.replace(num_hidden_layers=2, num_experts=4, n_group=1, topk_group=1,
                     num_experts_per_tok=4)  # fmt: skip
PACKED = [*(f.name for f in integer_formats()), "fp8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A function that makes a model with random weights in some format."""
    base = tmp_path_factory.mktemp("models")

    def make(to, cfg=SMALL):
        path = base / f"{to}-{abs(hash(cfg))}"
        if not path.exists():
            synth(cfg, path, to=to, log=lambda line: None)
        return path

    return make


def network(path, method="qlora", dtype="float32", mtp=0.0, targets=None):
    lora = LoRAConfig(rank=4, expert_rank=2, **({"targets": targets} if targets else {}))
    train = SFTTrainConfig(dtype=dtype, mtp_loss_weight=mtp)
    recipe = SFTConfig(model=str(path), method=method, data=ChatDataConfig(files=["-"]),
                       lora=lora, train=train)  # fmt: skip
    return build_network(recipe, config_at(Path(path)), torch.device("cpu"), lambda n: n)


def unpacked(path, targets=None):
    """The network with adapters over the values that the codes of a folder stand for."""
    floats = path.parent / f"{path.name}-bf16"
    if not floats.exists():
        convert(path, floats, to="bf16", log=lambda line: None)
    net = network(floats, "lora", targets=targets)
    with contextlib.closing(open_source(path)) as source:
        fill(net.ling, source)  # not rounded
    return net


def trained(net):
    return {name: p for name, p in net.named_parameters() if p.requires_grad}


@torch.no_grad()
def grow(*nets):
    """The same values of B in all, as training could have made them."""
    g = torch.Generator().manual_seed(1)
    for name in trained(nets[0]):
        value = torch.randn(trained(nets[0])[name].shape, generator=g) * 0.05
        for net in nets:
            p = trained(net)[name]
            p.copy_(value if name.endswith("lora_B") else trained(nets[0])[name])


def tokens(cfg, n=64):
    return torch.randint(cfg.vocab_size, (n + 1,), generator=torch.Generator().manual_seed(2))


def hidden(net, ids):
    return net([ids], torch.arange(len(ids)), DenseAttend([0, len(ids)]))


def loss_of(net):
    ids = tokens(net.ling.config)
    mask = torch.ones(len(ids) - 1)
    return cross_entropy(hidden(net, ids[:-1])[0], net.head, ids[1:], mask)[0]


@pytest.mark.parametrize("to", PACKED)
def test_hidden_states_are_those_of_the_engine(folder, to):
    path = folder(to)
    net, ids = network(path), tokens(SMALL)
    runner = open_runner(path, EngineConfig())
    runner.allocate(2)
    want = runner.forward(ids.tolist(), [Segment([0, 1], 0, 0, len(ids))])
    got = hidden(net, ids)[0]
    assert ((got - want).norm(dim=1) / want.norm(dim=1)).max() < 0.02


# A layer of either kind: errors of activations in 8 bits add up over layers.
KINDS = {
    "dense": (SMALL.replace(num_hidden_layers=1), ["attention", "dense"]),
    "routed": (SMALL.replace(num_hidden_layers=1, first_k_dense_replace=0),
               ["attention", "shared", "experts"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", PACKED)
def test_gradients_are_near_those_of_the_unpacked_model(folder, to, kind):
    cfg, targets = KINDS[kind]
    path = folder(to, cfg)
    packed = network(path, targets=targets)
    plain = unpacked(path, targets)
    grow(packed, plain)
    losses = [loss_of(net) for net in (packed, plain)]
    assert abs(losses[0] - losses[1]) < 1e-3 * losses[1]
    for loss in losses:
        loss.backward()
    assert set(trained(packed)) == set(trained(plain))
    for name, p in trained(packed).items():
        want = trained(plain)[name].grad
        assert want.norm() > 0
        assert (p.grad - want).norm() < 0.02 * want.norm(), name


@pytest.mark.parametrize("to", PACKED)
def test_with_exact_products_gradients_are_those_of_the_unpacked_model(folder, to, monkeypatch):
    monkeypatch.setattr(kernels, "matmul", lambda w, x: x @ kernels.unpack(w).t())
    packed, plain = network(folder(to)), unpacked(folder(to))
    grow(packed, plain)
    for net in (packed, plain):
        loss_of(net).backward()
    for name, p in trained(packed).items():
        torch.testing.assert_close(p.grad, trained(plain)[name].grad, rtol=1e-3, atol=1e-6)


def test_only_adapters_learn_and_what_is_not_packed_stays_a_parameter(folder):
    net = network(folder("int4"), dtype="bfloat16")
    assert all(".lora_" in name or "_lora_" in name for name in trained(net))
    frozen = {n.rpartition(".")[0].rpartition(".")[2] for n, p in net.named_parameters()
              if not p.requires_grad}  # fmt: skip
    assert {"input_layernorm", "gate", "norm"} <= frozen
    assert not frozen & {"experts", "query_key_value", "lm_head", "word_embeddings"}
    before = loss_of(net)
    optimizer = torch.optim.SGD(trained(net).values(), lr=0.5)
    for _ in range(4):
        optimizer.zero_grad()
        loss = loss_of(net)
        loss.backward()
        optimizer.step()
    assert loss < before


def test_the_table_counts_packed_matrices_as_it_does_others(folder):
    cfg = TINY.replace(num_nextn_predict_layers=0)
    path = folder("int8", cfg)
    packed, plain = network(path), unpacked(path)
    assert table(packed.ling) == table(plain.ling)


@pytest.mark.parametrize("mtp", [0.0, 0.1])
def test_mtp_layers_are_taken_from_the_folder_only_where_they_are_trained(folder, mtp):
    net = network(folder("int4", TINY), mtp=mtp)
    assert len(net.ling.model.layers) == TINY.num_hidden_layers + 1
    assert (net.ling.model.layers[-1] is not None) == bool(mtp)
    ids = tokens(TINY)
    inputs = [ids[:-1], ids[1:]] if mtp else [ids[:-1]]
    found = net(inputs, torch.arange(64), DenseAttend([0, 64]))
    assert len(found) == len(inputs)
    assert all(h.isfinite().all() for h in found)


def test_a_tied_head_is_packed_and_its_embedding_looked_up(folder):
    net = network(folder("int8", SMALL.replace(tie_word_embeddings=True)))
    assert not any("embedding" in name or "lm_head" in name for name, _ in net.named_parameters())
    loss_of(net).backward()
    assert all(p.grad is not None for p in trained(net).values())


def test_float_weights_are_refused_with_the_command_that_packs_them(folder):
    path = folder("bf16")
    with pytest.raises(UsageError, match=rf"ling convert {path} {path.name}-int4 --to int4"):
        network(path)


@pytest.mark.parametrize("key", ["ep", "pp"])
def test_ranks_that_would_share_packed_weights_are_refused(key):
    degrees = {"ep": {"ep": 2, "dp_shard": 2}, "pp": {"pp": 2}}[key]
    data, parallel = ChatDataConfig(files=["-"]), ParallelConfig(**degrees)
    recipe = SFTConfig(model="x", method="qlora", data=data, parallel=parallel)
    with pytest.raises(UsageError, match=f"`parallel.{key}` = 2"):
        check_packed(recipe)


def test_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(place, "device_type", lambda name: torch.device("cuda"))
    with pytest.raises(UsageError, match=r"set `train.device: cpu`"):
        check_packed(SFTConfig(model="x", method="qlora", data=ChatDataConfig(files=["-"])))
