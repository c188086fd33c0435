"""The model at work over HTTP, and what it shares with the studio: access, problems, the server."""
