"""Two stages: the candidates of several models, ranked by a second model that learns from which of them were right."""
