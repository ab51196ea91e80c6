"""Decisions: how many workers, how many calls a chunk, and where calls run; pure functions where they can be."""
