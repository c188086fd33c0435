"""Searchable index of images on disk: their vectors and ids, added, removed and searched."""
