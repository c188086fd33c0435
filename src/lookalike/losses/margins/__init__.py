"""Margins: one loss of the literature a file."""
