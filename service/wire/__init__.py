"""One module a format: bytes to numpy and back; no HTTP, no torch."""
