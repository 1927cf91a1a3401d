"""Numbers in JSON, in C, and the one module that calls it.

native          numbers in JSON by compiled code, which leaves the interpreter's lock to others while it reads
                or writes
native_read.c   lists of numbers, and masks, out of a JSON text
native_write.c  arrays of float32 as the shortest decimals that read back equal
"""
