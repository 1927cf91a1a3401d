"""What attention is: specifications, mathematics, weights and the device."""
