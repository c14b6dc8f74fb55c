"""Processes that work for tuning and for boards: one pool of them, their heartbeats, and the locks that they take."""
