"""OpenAI-compatible HTTP server; imports nothing until `ling.serve.app` is asked for."""
