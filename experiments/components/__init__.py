"""What the parts of the contrastive core are worth: one component at a time against the same base."""
