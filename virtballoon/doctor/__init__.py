"""Explains missing or stale statistics."""
