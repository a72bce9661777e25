"""What a model is evaluated by."""
