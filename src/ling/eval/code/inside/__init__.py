"""What runs in the sandbox's processes: the standard library only, and nothing of `ling` outside."""
