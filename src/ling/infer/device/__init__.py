"""The engine's model on a GPU: weights and KV pages in its memory."""
