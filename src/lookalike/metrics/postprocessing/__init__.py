"""Embeddings transformed after training."""
