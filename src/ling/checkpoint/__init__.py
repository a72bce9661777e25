"""Checkpoint formats: reading and writing each, under the Hugging Face names of `model.names`."""
