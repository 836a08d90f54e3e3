"""What an output must match: constraints checked, turned into llguidance grammars, and into masks of allowed tokens."""
