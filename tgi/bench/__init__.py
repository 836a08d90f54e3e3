"""`tgi bench`: sends a load to a server, measures what comes back, and tells how far the machine's limit is."""
