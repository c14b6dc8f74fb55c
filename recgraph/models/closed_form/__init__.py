"""Models that are fitted in one step."""
