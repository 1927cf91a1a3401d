"""The long forms of `tests/faults`: one figure a row, and whether what is promised was reached."""
