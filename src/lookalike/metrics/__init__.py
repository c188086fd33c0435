"""How well embeddings find images of the same class."""
