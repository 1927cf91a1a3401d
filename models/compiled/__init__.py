"""Products, attention and feed-forward networks by compiled code, and the one module that calls it.

c/            the C that is called: attention, what follows it, several blocks, threads that share the work
calls         calls of attention, filled in, and those of a long sequence in parts
edits         what edits do to a sequence's attention, as C is told
extents       which rows are each sequence's, what is asked of its attention, and memory for it
instructions  which set of instructions it uses: the widest there is, or the one asked for
kinds/        the C that does it for one kind of vector: products, attention of a head, outputs, norms
native        the functions of `models.compiled._native`, made of c/ and kinds/, called by pointers
panels        what a block does with several weights, as C is told
rows          memory for the rows of a call, also in narrower numbers
rules         which keys a row may attend and how scores are made, as C is told
through       several blocks as one call
structures    the structures that cross into C, and numbers that have names there
tables        memory for outputs made on the way to z, and the table of where they go
weights       weights laid out in panels, also in numbers narrower than float32
"""
