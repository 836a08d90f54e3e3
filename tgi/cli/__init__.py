"""The commands people type. Nothing else reads the environment, and nothing here computes."""
