"""Numbers in JSON, in C, and the one module that calls it.

native  numbers in JSON by compiled code, which leaves the interpreter's lock to others while it reads or
        writes
"""
