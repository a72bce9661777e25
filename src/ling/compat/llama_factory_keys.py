"""LLaMA-Factory's keys that are no part of a recipe here: refused where they are set, or ignored.

Those of `transformers.TrainingArguments` are among them.
"""

from __future__ import annotations

# Methods that `ling sft` does not have: a run without them would be another one.
REFUSED = frozenset(
    (
        *("adapter_name_or_path", "additional_target", "use_dora", "pissa_init"),
        *("loraplus_lr_ratio", "use_llama_pro", "use_galore", "use_apollo", "use_badam"),
        *("use_adam_mini", "use_muon", "use_dft_loss", "neftune_noise_alpha"),
        *("label_smoothing_factor", "pref_bco_weight", "ld_alpha", "ref_model"),
        *("ref_model_adapters", "reward_model", "train_on_prompt", "default_system", "shift_attn"),
        *("rope_scaling", "resize_vocab", "add_tokens", "add_special_tokens", "do_predict"),
        *("new_special_tokens_config", "mixture_of_depths", "train_from_scratch", "optim_args"),
        *("use_eaft_loss", "use_asft_loss", "moe_aux_loss_coef"),
    )
)

_GPU = (
    *("deepspeed", "fsdp", "fsdp_config", "ddp_timeout", "ddp_backend", "ddp_bucket_cap_mb"),
    *("ddp_broadcast_buffers", "ddp_find_unused_parameters", "ddp_static_graph", "local_rank"),
    *("flash_attn", "use_unsloth", "use_unsloth_gc", "enable_liger_kernel", "use_liger_kernel"),
    *("liger_kernel_config", "tf32", "use_cpu", "no_cuda", "use_kt", "use_mca", "use_v1_kernels"),
    *("torch_compile", "torch_compile_backend", "torch_compile_mode", "accelerator_config"),
    *("parallelism_config", "fp8", "fp8_backend", "fp8_enable_fsdp_float8_all_gather"),
    *("device_map", "low_cpu_mem_usage", "offload_folder", "torch_empty_cache_steps", "kt_mode"),
    *("kt_optimize_rule", "kt_maxlen", "kt_use_cuda_graph", "kt_force_think", "cpu_infer"),
    *("chunk_size", "mode", "ray_run_name", "ray_storage_path", "ray_storage_filesystem"),
    *("ray_num_workers", "resources_per_worker", "placement_strategy", "ray_init_kwargs"),
    *("quantization_method", "quantization_type", "double_quantization"),
    *("quantization_device_map", "activation_checkpointing", "activation_checkpointing_kwargs"),
    *("gradient_checkpointing", "gradient_checkpointing_kwargs", "use_reentrant_gc"),
    *("disable_gradient_checkpointing", "upcast_layernorm", "upcast_lmhead_output"),
    *("fp16_full_eval", "bf16_full_eval", "auto_find_batch_size", "average_tokens_across_devices"),
)
_DATA = (
    *("overwrite_cache", "preprocessing_num_workers", "preprocessing_batch_size", "media_dir"),
    *("streaming", "buffer_size", "data_shared_file_system", "tokenized_path", "tool_format"),
    *("ignore_pad_token_for_loss", "eval_num_beams", "eval_on_each_dataset", "enable_thinking"),
    *("image_max_pixels", "image_min_pixels", "image_do_pan_and_scan", "crop_to_patches"),
    *("video_max_pixels", "video_min_pixels", "video_fps", "video_maxlen", "use_audio_in_video"),
    *("audio_sampling_rate", "freeze_vision_tower", "freeze_multi_modal_projector"),
    *("freeze_language_model", "dataloader_drop_last", "dataloader_num_workers", "data_seed"),
    *("dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
    *("dataloader_multiprocessing_context", "dataloader_in_order", "remove_unused_columns"),
    *("label_names", "train_sampling_strategy", "group_by_length", "length_column_name"),
    *("disable_shuffling", "sortish_sampler", "ignore_data_skip"),
)
_MODEL = (
    *("trust_remote_code", "cache_dir", "adapter_folder", "use_fast_tokenizer", "use_cache"),
    *("split_special_tokens", "init_special_tokens"),
    *("infer_backend", "infer_dtype", "use_kv_cache", "hf_hub_token", "ms_hub_token"),
    *("om_hub_token", "print_param_status", "vllm_maxlen", "vllm_gpu_util", "vllm_enforce_eager"),
    *("vllm_max_lora_rank", "vllm_config", "sglang_maxlen", "sglang_mem_fraction"),
    *("sglang_tp_size", "sglang_config", "sglang_lora_backend", "create_new_adapter"),
    *("export_dir", "export_size", "export_device", "export_quantization_bit"),
    *("export_quantization_dataset", "export_quantization_nsamples", "export_quantization_maxlen"),
    *("export_legacy_format", "export_hub_model_id"),
)
_METHODS = (
    *("freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules"),
    *("loraplus_lr_embedding", "pissa_iter", "pissa_convert", "module_dropout", "oft_rank"),
    *("oft_block_size", "oft_target", "kto_chosen_weight", "kto_rejected_weight", "simpo_gamma"),
    *("ppo_buffer_size", "ppo_epochs", "ppo_score_norm", "ppo_target", "ppo_whiten_rewards"),
    *("ref_model_quantization_bit", "reward_model_adapters", "reward_model_quantization_bit"),
    *("reward_model_type", "galore_target", "galore_rank", "galore_update_interval"),
    *("galore_scale", "galore_proj_type", "galore_layerwise", "apollo_target", "apollo_rank"),
    *("apollo_update_interval", "apollo_scale", "apollo_proj", "apollo_proj_type"),
    *("apollo_scale_type", "apollo_layerwise", "apollo_scale_front", "badam_mode"),
    *("badam_start_block", "badam_switch_mode", "badam_switch_interval", "badam_update_ratio"),
    *("badam_mask_mode", "badam_verbose", "optim_target_modules", "compute_accuracy"),
)
_REPORTS = (
    *("overwrite_output_dir", "resume_from_checkpoint", "plot_loss", "logging_strategy"),
    *("logging_first_step", "log_on_each_node", "logging_nan_inf_filter", "logging_dir"),
    *("include_num_input_tokens_seen", "include_tokens_per_second", "log_level"),
    *("include_effective_tokens_per_second", "log_level_replica", "disable_tqdm", "run_name"),
    *("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
    *("eval_delay", "per_device_eval_batch_size", "prediction_loss_only", "eval_on_start"),
    *("eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps"),
    *("include_for_metrics", "batch_eval_metrics", "save_only_model", "save_on_each_node"),
    *("save_safetensors", "enable_jit_checkpoint", "push_to_hub", "hub_token"),
    *("hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
    *("restore_callback_states_from_checkpoint", "full_determinism", "debug", "do_train"),
    *("skip_memory_metrics", "do_eval", "predict_with_generate", "generation_max_length"),
    *("generation_num_beams", "generation_config", "max_new_tokens", "max_length", "do_sample"),
    *("temperature", "top_p", "top_k", "num_beams", "repetition_penalty", "length_penalty"),
    *("skip_special_tokens", "use_swanlab", "swanlab_project", "swanlab_workspace"),
    *("swanlab_run_name", "swanlab_mode", "swanlab_api_key", "swanlab_logdir"),
    *("swanlab_lark_webhook_url", "swanlab_lark_secret"),
)
# About devices, caches, reports and models of other kinds: nothing that changes what is trained.
IGNORED = frozenset((*_GPU, *_DATA, *_MODEL, *_METHODS, *_REPORTS))
