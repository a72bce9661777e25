"""What the server reads and writes: request and response types of each API, in pydantic."""
