"""The studio: training and watching runs in a browser."""
