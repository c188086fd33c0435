"""Retrieval metrics of embeddings, their confidence intervals, and calibrated thresholds."""
