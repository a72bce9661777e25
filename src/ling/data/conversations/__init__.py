"""Conversations for fine-tuning: from the files people have to rows of tokens."""
