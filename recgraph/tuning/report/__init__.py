"""The page of a study: one HTML file with its figures, that needs no network."""
