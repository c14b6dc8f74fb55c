"""Readers: each turns one format into a lazy frame in file order and the source that errors name."""
