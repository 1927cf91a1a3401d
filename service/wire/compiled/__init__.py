"""Numbers in JSON, in C, and the one module that calls it.

native             numbers in JSON by compiled code, which leaves the interpreter's lock to others while it
                   reads or writes
native_calls.c     what crosses, told to Python
native_calls.h     the structures that cross from Python
native_numbers.h   numbers out of a JSON text: decimals to float32
native_read.c      lists of numbers, and masks, out of a JSON text
native_shortest.h  float32 as the shortest decimal that reads back equal
native_write.c     arrays of float32 as JSON
structures         the structures that cross into C, and numbers that have names there
"""
