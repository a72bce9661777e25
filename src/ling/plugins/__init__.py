"""Doors for other libraries; imported by nobody here."""
