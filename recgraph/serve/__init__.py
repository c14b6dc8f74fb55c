"""Serving: a model with its ids and seen items, saved as a bundle."""
