"""Workers: starting them, and collectives."""
