"""Who is evaluated: our engine, transformers, or a server."""
