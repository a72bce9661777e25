"""Folders in our integer formats."""
