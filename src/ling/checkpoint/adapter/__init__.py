"""LoRA adapters in the folders of peft: `adapter_config.json`, `adapter_model.safetensors`."""
