"""What runs in the sandbox's processes: it uses the standard library only."""
