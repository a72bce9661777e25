"""What is trained: a batch in, losses out."""
