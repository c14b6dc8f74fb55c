"""Typed graphs: built, stored, exchanged, sampled, and followed along meta-paths."""
