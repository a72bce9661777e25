"""`BailingMoeV2ForCausalLM` for transformers: its calling conventions around our one model.

The network is `model.Ling`; here are batches, caches, losses and folders as transformers has them.
Legend: B rows · S positions · T = B·S tokens · D hidden · V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, DynamicCache, GenerationMixin
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput

from ..errors import CheckpointError, UsageError
from ..model.ling import Ling, init_module
from ..text import parse_bytes
from .hf_attend import CacheAttend
from .hf_config import BailingMoeV2Config
from .hf_weights import copy_experts, lazy_state, write_weights

IGNORED = -100
_FOR_HUB = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


@dataclass
class LingOutput(ModelOutput):
    """What the original class returns; `mtp_*` have one entry per MTP layer.

    `router_logits` holds, per MoE layer, float32 logits [B, S, experts] and the ids chosen.
    """

    loss: Tensor | None = None
    mtp_loss: tuple[Tensor, ...] | None = None
    aux_loss: Tensor | None = None
    logits: Tensor | None = None
    mtp_logits: tuple[Tensor, ...] | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: None = None
    router_logits: tuple[tuple[Tensor, Tensor], ...] | None = None


class BailingMoeV2ForCausalLM(PreTrainedModel, GenerationMixin):
    """Ling 2.0 behind `AutoModelForCausalLM`."""

    config_class = BailingMoeV2Config
    # The decoder below is not a PreTrainedModel, so there is no base model to load alone.
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["Block", "MTPBlock"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _tied_weights_keys: ClassVar[dict[str, str]] = {
        "lm_head.weight": "model.word_embeddings.weight"
    }

    def __init__(self, config: BailingMoeV2Config) -> None:
        super().__init__(config)
        network = Ling(config.ling())
        self.model, self.lm_head = network.model, network.lm_head
        # Shares `model`, and stays out of the module tree so that names are the checkpoint's. The
        # head is ours alone: LoRA and resizing replace it.
        del network.lm_head
        object.__setattr__(self, "network", network)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        output_router_logits: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LingOutput | tuple[Any, ...]:
        """Scores of the next token, and of the ones after it by the MTP layers.

        `position_ids` None counts from the cache's length, padding included. MTP layers run when
        there are token ids and no cache was passed: they need the tokens that follow. The loss is
        upstream's, without its leak of labels between rows. Keyword arguments of other classes
        (`cache_position`), and `token_type_ids` that a tokenizer adds, are not needed and ignored.
        """
        cfg = self.config
        if output_attentions or cfg.output_attentions:
            raise UsageError("`output_attentions`: attention weights are never formed (SDPA)")
        first = input_ids if input_ids is not None else inputs_embeds
        if first is None or (input_ids is not None and inputs_embeds is not None):
            raise UsageError("give either `input_ids` or `inputs_embeds`")
        whole = past_key_values is None
        wants_cache = cfg.use_cache and not self.training if use_cache is None else use_cache
        if whole and wants_cache and not (self.training and self.gradient_checkpointing):
            past_key_values = DynamicCache()
        batch = _Batch(self.network, first, attention_mask, position_ids, past_key_values, whole)
        trace = (
            _Trace(*batch.shape) if _asked(output_router_logits, cfg.output_router_logits) else None
        )
        wants_hidden = _asked(output_hidden_states, cfg.output_hidden_states)
        with self._compute_dtype(first.device.type):
            h_TD, hidden = self._hidden(input_ids, inputs_embeds, batch, trace, wants_hidden)
            mtp_TD = (
                self._mtp(input_ids, h_TD, batch, trace) if whole and input_ids is not None else []
            )
            h_BSD = h_TD.unflatten(0, batch.shape)
            keep = (
                slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            )
            logits = self.lm_head(h_BSD[:, keep]).float()
            mtp_logits = tuple(self.lm_head(x.unflatten(0, batch.shape)).float() for x in mtp_TD)
        loss, mtp_loss = None, None
        if labels is not None:
            scores = (logits, *mtp_logits)
            loss, mtp_loss = self._losses(scores, labels, batch.documents_BS, num_items_in_batch)
        out = LingOutput(
            loss=loss,
            mtp_loss=mtp_loss,
            logits=logits,
            mtp_logits=mtp_logits or None,
            past_key_values=past_key_values,
            hidden_states=(
                (*hidden, h_BSD, *(x.unflatten(0, batch.shape) for x in mtp_TD))
                if wants_hidden
                else None
            ),
            router_logits=trace.per_layer() if trace else None,
        )
        return out if _asked(return_dict, True) else out.to_tuple()

    def _hidden(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        batch: _Batch,
        trace: _Trace | None,
        record: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        """Final h_TD, and the input [B, S, D] of every main layer when `record`."""
        network = self.network
        if inputs_embeds is not None:
            x_TD = inputs_embeds.flatten(0, 1).to(network.compute_dtype or inputs_embeds.dtype)
        else:
            assert input_ids is not None
            x_TD = network.embed(input_ids.flatten())
        layers: Any = self.model.layers[: network.config.num_hidden_layers] if record else []
        with _inputs_of(layers) as inputs:
            h_TD = network.hidden(x_TD, batch.positions_T, batch.attend, trace)
        return h_TD, [x.unflatten(0, batch.shape) for x in inputs]

    def _mtp(
        self, input_ids: Tensor, h_TD: Tensor, batch: _Batch, trace: _Trace | None
    ) -> list[Tensor]:
        outputs: list[Tensor] = []
        for j in range(self.network.config.num_nextn_predict_layers):
            input_ids = _shift_left(input_ids, 1, 0)
            h_TD = self.network.mtp(
                j, input_ids.flatten(), h_TD, batch.positions_T, batch.attend, trace
            )
            outputs.append(h_TD)
        return outputs

    def _losses(
        self,
        scores: tuple[Tensor, ...],
        labels_BS: Tensor,
        documents_BS: Tensor | None,
        num_items_in_batch: Any,
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """(total, one per MTP layer) from the main scores and those of the MTP layers."""
        main, *mtp = (
            self._loss(x, _targets(labels_BS, documents_BS, j + 1), num_items_in_batch)
            for j, x in enumerate(scores)
        )
        total = main
        for term in mtp:
            total = total + self.config.mtp_loss_scaling_factor * term
        return total, tuple(mtp) or None

    def _loss(self, logits: Tensor, targets: Tensor, num_items_in_batch: Any) -> Tensor:
        if not bool((targets != IGNORED).any()):
            return logits.sum() * 0.0  # no target: zero with a gradient, where a mean were NaN
        return self.loss_function(
            logits=logits,
            labels=None,
            vocab_size=logits.shape[-1],
            num_items_in_batch=num_items_in_batch,
            shift_labels=targets,
        )

    @contextlib.contextmanager
    def _compute_dtype(self, device: str) -> Iterator[None]:
        """Under autocast the model's own mixed precision runs instead: its router stays float32."""
        if not torch.is_autocast_enabled(device):
            yield
            return
        self.network.compute_dtype = torch.get_autocast_dtype(device)
        try:
            with torch.autocast(device, enabled=False):
                yield
        finally:
            self.network.compute_dtype = None

    # ---- modules that transformers asks for ----------------------------------------------------

    def get_input_embeddings(self) -> nn.Module:
        """The embedding, for resizing and for gradient checkpointing with adapters."""
        return self.model.word_embeddings

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the embedding (`resize_token_embeddings` does)."""
        self.model.word_embeddings = value

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        """Replace the head."""
        self.lm_head = new_embeddings

    def _init_weights(self, module: nn.Module) -> None:
        init_module(module, self.config.initializer_range)

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable = checkpoint, **_: Any
    ) -> None:
        self.gradient_checkpointing = enable
        for layer in self.model.layers:
            plain = layer.__dict__.get("plain_forward", layer.forward)
            layer.plain_forward = plain
            recomputed = functools.partial(_recompute, layer, gradient_checkpointing_func)
            layer.forward = recomputed if enable else plain

    # ---- folders -------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, config: Any = None, **kwargs: Any
    ) -> Any:
        """transformers' own, except for what it would do with FP8 folders and foreign formats.

        FP8 is dequantised to bfloat16; `int4` and `int8` folders of `ling convert` are refused.
        """
        if not isinstance(config, BailingMoeV2Config):
            hub = {k: kwargs[k] for k in _FOR_HUB if k in kwargs}
            path = config if config is not None else pretrained_model_name_or_path
            config = cls.config_class.from_pretrained(path, **hub)
        config = _without_quantization(config, str(pretrained_model_name_or_path))
        return super().from_pretrained(
            pretrained_model_name_or_path, *args, config=config, **kwargs
        )

    @classmethod
    def _load_pretrained_model(
        cls, model: Any, state_dict: Any, checkpoint_files: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if checkpoint_files is not None:
            devices = kwargs.get("device_map") or getattr(args[0], "device_map", None) or {}
            if "disk" in devices.values():
                raise UsageError("`device_map` sends layers to disk; the stacked experts cannot go")
            state_dict = lazy_state(checkpoint_files, model.config.ling())
            if "sharded_metadata" in kwargs:
                kwargs["sharded_metadata"] = None  # transformers 4 would expect the shards' names
        return super()._load_pretrained_model(model, state_dict, None, *args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Also takes names of the released layout, which `Trainer` reads back from its folders."""
        state = dict(state_dict)
        filled = copy_experts(state, dict(self.named_parameters()))
        own = self.state_dict()
        return super().load_state_dict({**{k: own[k] for k in filled}, **state}, *args, **kwargs)

    def save_pretrained(
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "5GB",
        **kwargs: Any,
    ) -> None:
        """Write the released layout: a tensor per expert, float32 `expert_bias`, the door files.

        With adapters loaded into it (`add_adapter`) only these are written, as transformers does.
        """
        if getattr(self, "_hf_peft_config_loaded", False):
            super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
            return
        if not is_main_process:
            return
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        state = self.state_dict() if state_dict is None else state_dict
        dtype = str(state["model.norm.weight"].dtype).removeprefix("torch.")
        shard = (
            max_shard_size
            if isinstance(max_shard_size, int)
            else parse_bytes(max_shard_size, "max_shard_size")
        )
        write_weights(state, self.config.ling().replace(dtype=dtype), folder, shard)
        self.config.dtype = dtype
        self.config.save_pretrained(folder)
        self.generation_config.save_pretrained(folder)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)

    def load_custom_generate(self, *args: Any, **kwargs: Any) -> Any:
        """A folder's own `generate` is code, and never run; transformers goes on without it."""
        raise OSError("a model folder's `custom_generate` is not run")

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModelForCausalLM") -> None:
        """Nothing to do: the class lives in `ling`, no copy of its file goes into a folder."""


class _Batch:
    """Shape, positions and attention of one call."""

    def __init__(
        self,
        network: Ling,
        first: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Any,
        whole: bool,
    ) -> None:
        self.shape = B, S = first.shape[:2]
        # Positions that start anew inside a row are packed documents, unless a mask says padding.
        self.documents_BS = None
        if position_ids is not None and whole and attention_mask is None:
            self.documents_BS = _documents(position_ids.expand(B, S))
        self.attend = CacheAttend(
            (B, S), attention_mask, cache, network.config.num_hidden_layers, self.documents_BS
        )
        if position_ids is None:
            past = self.attend.past
            position_ids = torch.arange(past, past + S, device=first.device)[None]
        self.positions_T = position_ids.expand(B, S).flatten()


class _Trace:
    """Collects routing for `output_router_logits`."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self.seen: dict[int, tuple[Tensor, Tensor]] = {}

    def record(self, layer: int, logits_TE: Tensor, ids_TA: Tensor) -> None:
        """Called by every MoE layer; again when the layer is recomputed."""
        self.seen[layer] = (logits_TE.unflatten(0, self.shape), ids_TA.unflatten(0, self.shape))

    def per_layer(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """In layer order, MTP layers last."""
        return tuple(self.seen[layer] for layer in sorted(self.seen))


def _documents(position_ids_BS: Tensor) -> Tensor | None:
    """A number per token that changes where positions start anew; None when they never do."""
    starts = F.pad(position_ids_BS.diff(dim=1) != 1, (1, 0), value=False)
    return starts.cumsum(1) if bool(starts.any()) else None


def _shift_left(x_BS: Tensor, distance: int, fill: int) -> Tensor:
    """Every row shifted by itself, so that none sees another."""
    return F.pad(x_BS[:, distance:], (0, min(distance, x_BS.shape[1])), value=fill)


def _targets(labels_BS: Tensor, documents_BS: Tensor | None, distance: int) -> Tensor:
    """The label `distance` tokens ahead; ignored beyond the row or the document."""
    targets = _shift_left(labels_BS, distance, IGNORED)
    if documents_BS is None:
        return targets
    same = _shift_left(documents_BS, distance, -1) == documents_BS
    return targets.where(same, targets.new_tensor(IGNORED))


@contextlib.contextmanager
def _inputs_of(layers: Any) -> Iterator[list[Tensor]]:
    """Collects the first argument of every call of `layers`."""
    seen: list[Tensor] = []
    hooks = [m.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for m in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _recompute(layer: Any, func: Callable[..., Any], *args: Any) -> Any:
    """A layer's forward that keeps its input only, while training."""
    if layer.training and torch.is_grad_enabled():
        return func(layer.plain_forward, *args)
    return layer.plain_forward(*args)


def _asked(flag: bool | None, default: bool | None) -> bool:
    return bool(default if flag is None else flag)


def _without_quantization(config: BailingMoeV2Config, path: str) -> BailingMoeV2Config:
    quantization = getattr(config, "quantization_config", None)
    if not isinstance(quantization, dict):
        return config
    method = quantization.get("quant_method")
    if method == "ling":
        raise CheckpointError(
            f"{path}: {quantization.get('format', 'integer')} weights are for ling's own engine "
            "(`ling generate`, `ling.LLM`); for transformers convert to bf16 or fp8"
        )
    if method == "fp8":
        config = copy.deepcopy(config)
        del config.quantization_config
    return config


def register() -> None:
    """Teach `AutoModelForCausalLM` the class."""
    AutoModelForCausalLM.register(BailingMoeV2Config, BailingMoeV2ForCausalLM, exist_ok=True)
