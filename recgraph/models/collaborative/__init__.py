"""Models of users and items by index."""
