"""Products, attention and feed-forward networks by compiled code, and the one module that calls it.

extents    where the rows of each sequence stand, and what attention of them gives
native     the functions of `models.compiled._native`, the C files beside this folder, called by pointers
panels     weights laid out as compiled products read them
"""
