"""How Heed is reached: HTTP in front, batching behind it, one wall from torch."""

__version__ = "0.1.0"
