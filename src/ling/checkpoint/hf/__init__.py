"""Hugging Face folders: bf16, float32 or FP8."""
