"""Which items of the history a recommendation comes from, whether methods agree on it, and are faithful."""
