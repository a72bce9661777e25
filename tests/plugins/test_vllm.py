"""How the entry point behaves towards a vLLM of other releases, played by a stand-in."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Literal

import pytest

from ling.plugins import vllm as plugin

ARCH, MTP = plugin.ARCHITECTURE, plugin.MTP_ARCHITECTURE
NATIVE = "vllm.model_executor.models.bailing_moe"


class Registry:
    def __init__(self):
        self.models = {ARCH: SimpleNamespace(module_name=NATIVE)}

    def register_model(self, name, place):
        self.models[name] = SimpleNamespace(module_name=place.split(":")[0])


@pytest.fixture
def vllm(monkeypatch):
    """A vLLM without MTP for Ling 2.0; tests change it into other releases."""

    class SpeculativeConfig:
        @staticmethod
        def hf_config_override(hf_config):
            return ("vllm", hf_config)

    package, config, speculative = map(ModuleType, ("vllm", "vllm.config", "v.speculative"))
    package.ModelRegistry = Registry()
    package.speculative = config.speculative = speculative
    speculative.SpeculativeConfig = SpeculativeConfig
    speculative.MTPModelTypes = Literal["deepseek_mtp", "glm4_moe_mtp"]
    transformers_side = ModuleType("ling.plugins.hf_config")
    transformers_side.register = lambda: None
    monkeypatch.setattr("ling.plugins.hf_config", transformers_side, raising=False)
    for name, module in {
        "vllm": package,
        "vllm.config": config,
        "vllm.config.speculative": speculative,
        "ling.plugins.hf_config": transformers_side,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    return package


class HFConfig(SimpleNamespace):
    def update(self, values):
        vars(self).update(values)


def ling_config(mtp):
    return HFConfig(architectures=[ARCH], model_type="bailing_moe", num_nextn_predict_layers=mtp)


def test_registers_model_and_draft(vllm):
    plugin.register()
    models = vllm.ModelRegistry.models
    assert models[ARCH].module_name == "ling.plugins.vllm_models"
    assert models[MTP].module_name == "ling.plugins.vllm_mtp"
    override = vllm.speculative.SpeculativeConfig.hf_config_override
    draft = override(ling_config(1))
    assert draft.architectures == [MTP]
    assert (draft.model_type, draft.n_predict) == ("glm4_moe_mtp", 1)


def test_registering_twice_changes_nothing(vllm):
    plugin.register()
    first = dict(vllm.ModelRegistry.models)
    plugin.register()
    assert vllm.ModelRegistry.models == first
    other = HFConfig(architectures=["OtherForCausalLM"])
    override = vllm.speculative.SpeculativeConfig.hf_config_override
    assert override(other) == ("vllm", other)


def test_other_models_keep_the_hook_of_vllm(vllm):
    plugin.register()
    override = vllm.speculative.SpeculativeConfig.hf_config_override
    for other in (HFConfig(architectures=["OtherForCausalLM"]), HFConfig(architectures=None)):
        assert override(other) == ("vllm", other)


def test_a_checkpoint_without_mtp_may_draft_for_a_larger_one(vllm):
    plugin.register()
    config = vllm.speculative.SpeculativeConfig.hf_config_override(ling_config(0))
    assert config.architectures == [ARCH]


def test_a_draft_of_several_layers_uses_the_first(vllm):
    plugin.register()
    config = vllm.speculative.SpeculativeConfig.hf_config_override(ling_config(3))
    assert (config.num_nextn_predict_layers, config.n_predict) == (1, 1)


def test_stands_back_where_the_release_has_mtp(vllm, caplog):
    vllm.ModelRegistry.models[MTP] = SimpleNamespace(module_name=NATIVE + "_mtp")
    before = dict(vllm.ModelRegistry.models)
    plugin.register()
    assert vllm.ModelRegistry.models == before


@pytest.mark.parametrize("place", [None, "vllm.models.bailing_moe"])
def test_stands_back_where_the_native_class_is_elsewhere(vllm, caplog, place):
    vllm.ModelRegistry.models[ARCH] = SimpleNamespace(module_name=place)
    plugin.register()
    assert vllm.ModelRegistry.models[ARCH].module_name == place
    assert MTP not in vllm.ModelRegistry.models
    assert len(caplog.records) == 1


def test_no_draft_where_vllm_has_no_such_type(vllm, caplog):
    vllm.speculative.MTPModelTypes = Literal["deepseek_mtp"]
    plugin.register()
    assert vllm.ModelRegistry.models[ARCH].module_name == "ling.plugins.vllm_models"
    assert MTP not in vllm.ModelRegistry.models
    assert len(caplog.records) == 1


def test_the_unexpected_is_one_line_and_no_exception(vllm, caplog):
    del vllm.speculative.SpeculativeConfig.hf_config_override
    plugin.register()
    assert MTP not in vllm.ModelRegistry.models
    assert len(caplog.records) == 1
    assert "stands back" in caplog.text
