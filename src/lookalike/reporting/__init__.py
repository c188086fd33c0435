"""The report of a run as one HTML file, and loggers to experiment trackers."""
