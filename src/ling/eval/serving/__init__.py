"""`ling bench serve`: requests to a running server, measured from outside."""
