"""Calls that may never return: threads, limits, deadlines, sessions."""
