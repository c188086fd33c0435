"""A test set measured with one model or several, and how that is told."""
