"""Settings: their fields, texts and checks."""
