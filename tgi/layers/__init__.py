"""Building blocks of model files: linear maps over any format, attention over the paged cache, norms, positions."""
