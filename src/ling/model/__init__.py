"""The network, its names and its weights on disk."""
