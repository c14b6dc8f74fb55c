"""The parts of a leaderboard's page: what its tables, figures and cards hold, and how they are laid out."""
