"""Re-rankers: what a list holds besides the best scores; picking lists from rankings, under limits too."""
