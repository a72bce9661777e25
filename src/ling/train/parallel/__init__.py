"""Training on several ranks: groups, meshes, sharding, expert parallelism."""
