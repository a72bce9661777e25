"""Between torch distributed checkpoints and Hugging Face folders."""
