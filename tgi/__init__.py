"""tgi: serve, download, quantize and benchmark large language models."""

__version__ = "4.0.0"
