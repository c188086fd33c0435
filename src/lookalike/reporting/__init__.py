"""The report of a run: one HTML file that shows how good a model is, and where it errs."""
