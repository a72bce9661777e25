"""File formats without a model: safetensors, pickles as data, torch archives, GGUF headers."""
