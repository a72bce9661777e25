"""`BailingMoeV2ForCausalLM` for transformers: its calling conventions around our one model.

The network is `model.Ling`; here are batches, caches, losses and folders as transformers has them.
Legend: B rows · S positions · T = B·S tokens · D hidden · V vocabulary.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, DynamicCache, GenerationMixin
from transformers.utils import ModelOutput

from ..errors import UsageError
from ..model.ling import Ling, init_module
from .hf_adapter import stack_for_peft
from .hf_batch import IGNORED, Batch, Trace, shift_left, targets
from .hf_config import BailingMoeV2Config
from .hf_folder import FolderModel
from .hf_output import CACHE, CACHE_NAMES, BodyOutput, LingOutput
from .hf_release import names_release


class BailingMoeV2ForCausalLM(FolderModel, GenerationMixin):
    """Ling 2.0 behind `AutoModelForCausalLM`."""

    # The decoder below is not a PreTrainedModel, so there is no base model to load alone.
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    # transformers joins these with its own lists and sets, so they must not be tuples.
    _no_split_modules: Any = ["Block", "MTPBlock"]  # noqa: RUF012
    _skip_keys_device_placement: Any = [*CACHE_NAMES]  # noqa: RUF012
    _tied_weights_keys: Any = {"lm_head.weight": "model.word_embeddings.weight"}  # noqa: RUF012
    generation_config: Any
    network: Ling
    generate = names_release(GenerationMixin.generate)

    def __init__(self, config: BailingMoeV2Config) -> None:
        super().__init__(config)
        network = Ling(config.ling())
        self.model, self.lm_head = network.model, network.lm_head
        # Shares `model`, and stays out of the module tree so that names are the checkpoint's. The
        # head is ours alone: LoRA and resizing replace it.
        del network.lm_head
        object.__setattr__(self, "network", network)
        self.gradient_checkpointing = False
        self.register_load_state_dict_pre_hook(stack_for_peft)
        self.post_init()

    @names_release
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
        cache: Any = None,
        **kwargs: Any,
    ) -> ModelOutput | tuple[Any, ...]:
        """Scores of the next token, and of the ones after it by the MTP layers.

        `cache` is what transformers calls `past_key_values` from 5.24 on; either will do.
        `position_ids` None counts from the cache's length, padding included. MTP layers run when
        there are token ids and no cache was passed: they need the tokens that follow. The loss is
        upstream's, without its leak of labels between rows. Keyword arguments of other classes
        (`cache_position`), and `token_type_ids` that a tokenizer adds, are not needed and ignored.
        """
        batch = self._batch(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds,
            cache=cache, use_cache=use_cache, output_attentions=output_attentions, **kwargs,
        )  # fmt: skip
        trace = self._trace(batch, output_router_logits)
        with self._compute_dtype(batch.device.type):
            h_TD, hidden = self._hidden(batch, trace, self._wants_hidden(output_hidden_states))
            mtp_TD = self._mtp(batch, h_TD, trace)
            keep = (
                slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            )
            logits = self.lm_head(batch.rows(h_TD)[:, keep]).float()
            mtp_logits = tuple(self.lm_head(batch.rows(x)).float() for x in mtp_TD)
        loss, mtp_loss = None, None
        if labels is not None:
            scores = (logits, *mtp_logits)
            loss, mtp_loss = self._losses(scores, labels, batch.documents_BS, num_items_in_batch)
        out = LingOutput(
            loss=loss,
            mtp_loss=mtp_loss,
            logits=logits,
            mtp_logits=mtp_logits or None,
            hidden_states=(*hidden, *(batch.rows(x) for x in mtp_TD)) if hidden else None,
            router_logits=trace.per_layer() if trace else None,
            **{CACHE: batch.cache},
        )
        return out if _asked(return_dict, True) else out.to_tuple()

    @property
    def base_model(self) -> nn.Module:
        """The model without its head, called as the model is."""
        return _Body(self)

    def _batch(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        cache: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        cu_seq_lens_q: Tensor | None = None,
        **_: Any,
    ) -> Batch:
        cfg = self.config
        if output_attentions or cfg.output_attentions:
            raise UsageError("`output_attentions`: attention weights are never formed (SDPA)")
        if past_key_values is not None and cache is not None:
            raise UsageError("`cache` and `past_key_values` are the same argument: give one")
        wants_cache = cfg.use_cache and not self.training if use_cache is None else use_cache
        makes_cache = wants_cache and not (self.training and self.gradient_checkpointing)
        return Batch(
            input_ids,
            inputs_embeds,
            attention_mask,
            position_ids,
            cu_seq_lens_q,
            past_key_values if past_key_values is not None else cache,
            DynamicCache() if makes_cache else None,
            cfg.num_hidden_layers,
        )

    def _trace(self, batch: Batch, output_router_logits: bool | None) -> Trace | None:
        wanted = _asked(output_router_logits, self.config.output_router_logits)
        return Trace(*batch.shape) if wanted else None

    def _wants_hidden(self, output_hidden_states: bool | None) -> bool:
        return _asked(output_hidden_states, self.config.output_hidden_states)

    def _hidden(
        self, batch: Batch, trace: Trace | None, record: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Final h_TD; when `record` also the input of every main layer and it, [B, S, D] each."""
        network = self.network
        if batch.inputs_embeds is not None:
            embeds = batch.inputs_embeds
            x_TD = embeds.flatten(0, 1).to(network.compute_dtype or embeds.dtype)
        else:
            assert batch.input_ids is not None
            x_TD = network.embed(batch.input_ids.flatten())
        layers: Any = self.model.layers[: network.config.num_hidden_layers] if record else []
        with _inputs_of(layers) as inputs:
            h_TD = network.hidden(x_TD, batch.positions_T, batch.attend, trace)
        return h_TD, [batch.rows(x) for x in (*inputs, h_TD)] if record else []

    def _mtp(self, batch: Batch, h_TD: Tensor, trace: Trace | None) -> list[Tensor]:
        """The MTP layers' h_TD; none with a passed cache or without ids of the tokens ahead."""
        outputs: list[Tensor] = []
        if batch.input_ids is None or not batch.whole:
            return outputs
        input_ids = batch.input_ids
        for j in range(self.network.config.num_nextn_predict_layers):
            input_ids = shift_left(input_ids, 1, 0)
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
            self._loss(x, targets(labels_BS, documents_BS, j + 1), num_items_in_batch)
            for j, x in enumerate(scores)
        )
        total = main
        for term in mtp:
            total = total + self.config.mtp_loss_scaling_factor * term
        return total, tuple(mtp) or None

    def _loss(self, logits: Tensor, targets_BS: Tensor, num_items_in_batch: Any) -> Tensor:
        if not bool((targets_BS != IGNORED).any()):
            return logits.sum() * 0.0  # no target: zero with a gradient, where a mean were NaN
        return self.loss_function(
            logits=logits,
            labels=None,
            vocab_size=logits.shape[-1],
            num_items_in_batch=num_items_in_batch,
            shift_labels=targets_BS,
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
        # Early releases of 5 call this for loaded modules too, and leave it to us to see the marks.
        tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if any(getattr(t, "_is_hf_initialized", False) for t in tensors):
            return
        init_module(module, self.config.initializer_range)

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable = checkpoint,
        every_n_layers: int = 1,
    ) -> None:
        self.gradient_checkpointing = enable
        for n, layer in enumerate(self.model.layers):
            plain = layer.__dict__.get("plain_forward", layer.forward)
            layer.plain_forward = plain
            recomputed = functools.partial(_recompute, layer, gradient_checkpointing_func)
            layer.forward = recomputed if enable and n % every_n_layers == 0 else plain


class _Body(nn.Module):
    """The model without its head; trainers with a loss of their own (trl) call it.

    Without the head's scores, which may be larger than all the rest, and without MTP layers.
    """

    _tp_plan = _pp_plan = None  # transformers looks for them

    def __init__(self, whole: BailingMoeV2ForCausalLM) -> None:
        super().__init__()
        self.model = whole.model  # the parameters, by the names that the whole has for them
        object.__setattr__(self, "_whole", whole)
        self.training = whole.training

    @names_release
    def forward(
        self,
        *args: Any,
        output_hidden_states: bool | None = None,
        output_router_logits: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> ModelOutput | tuple[Any, ...]:
        """`last_hidden_state` [B, S, D] after the final norm; arguments as the whole model's."""
        whole: BailingMoeV2ForCausalLM = self._whole  # type: ignore[assignment]
        batch = whole._batch(*args, **kwargs)
        trace = whole._trace(batch, output_router_logits)
        with whole._compute_dtype(batch.device.type):
            h_TD, hidden = whole._hidden(batch, trace, whole._wants_hidden(output_hidden_states))
        out = BodyOutput(
            last_hidden_state=batch.rows(h_TD),
            hidden_states=tuple(hidden) or None,
            router_logits=trace.per_layer() if trace else None,
            **{CACHE: batch.cache},
        )
        return out if _asked(return_dict, True) else out.to_tuple()


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


def register() -> None:
    """Teach `AutoModelForCausalLM` the class."""
    AutoModelForCausalLM.register(BailingMoeV2Config, BailingMoeV2ForCausalLM, exist_ok=True)
