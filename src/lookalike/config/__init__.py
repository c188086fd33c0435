"""Settings: fields, texts and checks."""
