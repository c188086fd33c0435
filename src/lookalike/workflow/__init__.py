"""Workflows: commands connected in one YAML file, and run in order."""
