"""Products, attention and feed-forward networks by compiled code, and the one module that calls it.

extents     which rows are each sequence's, what attention of them gives, and memory for it
native      the functions of `models.compiled._native`, the C files of this folder, called by pointers
panels      weights laid out as compiled products read them
structures  what crosses into C, by name, and whether a library was built for it
"""
