"""Losses that compare the images of a batch with each other, or with one proxy a class."""
