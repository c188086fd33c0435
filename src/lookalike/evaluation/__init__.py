"""Evaluation of one model or several on a test set, and its tables."""
