"""Processes of ours, started by exec or as forks of one that has imported what they need.

Knows nothing of what it starts, and imports nothing but the standard library.
"""
