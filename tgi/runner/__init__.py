"""Computes what the engine decided: `plan.py` is the contract between the two."""
