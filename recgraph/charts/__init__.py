"""Charts as inline SVG, and the look that all pages of the library share."""
