"""Measurements that run from the repository: each prints its command, machine and raw JSON."""
