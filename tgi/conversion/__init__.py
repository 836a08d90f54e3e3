"""Makes weights that can be served of weights that cannot: with torch, in a child process that has no network."""
