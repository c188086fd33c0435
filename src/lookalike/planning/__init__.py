"""Bytes, communication and seconds of a run before it starts, and settings that need less."""
