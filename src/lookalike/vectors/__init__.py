"""Files of vectors: written in parts that survive a kill, and merged."""
