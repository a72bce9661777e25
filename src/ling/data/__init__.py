"""Text in, token files out: tokenizer, chat templates, Megatron datasets, corpora."""
