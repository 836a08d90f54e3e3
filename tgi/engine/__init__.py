"""Decides what each step computes: queues, KV blocks, the loop. Only `core.py` reaches the runner."""
