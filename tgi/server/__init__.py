"""The front end: HTTP, validation, streams, and the recovery of a dead engine. Never imports torch."""
