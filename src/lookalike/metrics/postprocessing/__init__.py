"""Postprocessing of embeddings after training."""
