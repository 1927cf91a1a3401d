"""Products, attention and feed-forward networks by compiled code, and the one module that calls it.

extents             which rows are each sequence's, what attention of them gives, and memory for it
native              the functions of `models.compiled._native`, the C files of this folder, called by pointers
native_attention.c  the attention of one block: W_Q, W_K and W_V, attention of each sequence, W_O
native_calls.c      what crosses, told to Python
native_calls.h      the structures that cross from Python
native_feed.c       what a block does after its attention: residuals, norms, feed-forward network
native_kernel.h     products and attention of one head, for one kind of vector
native_kinds.c      the kernels for AVX2 and for AVX-512, made from one text
native_kinds.h      what there is of each kind of vector
native_linear.h     a linear layer, cut into tasks that threads share
native_rows.h       what is made of rows one by one: norms, activations, sums
native_team.c       threads that wait for work and share it
native_team.h       a job in phases, and how a team runs it
panels              weights laid out as compiled products read them
structures          the structures that cross into C, and numbers that have names there
"""
