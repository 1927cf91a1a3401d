"""From an admitted request to a batch on the device and back."""
