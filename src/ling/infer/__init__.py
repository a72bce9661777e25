"""The engine: requests of token ids in, token ids out."""
