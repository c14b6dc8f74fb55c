"""Runs: a model fitted to data, with the record of how."""
