"""Image files to pixel arrays."""
