"""Several HTTP processes in front of one device process."""
