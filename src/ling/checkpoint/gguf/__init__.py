"""GGUF files of architecture `bailingmoe2`."""
