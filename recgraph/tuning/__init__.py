"""Tuning: search spaces from annotations, Optuna studies on any storage, workers that may die. See
:func:`tune`.
"""
