"""Between numpy and the device: memory, copies in and out, signs of life.

allocator  keeps large blocks of memory for the next batch, instead of giving them back and asking again
capacity   what this process may use: memory, so that a model that does not fit is refused unread, and cores
collect    what a sequence asked for, gathered layer by layer into arrays that may cross the wall
signs      signs of life from batches: one begins, reaches a yield point, ends; for whoever watches the
           device
steps      work in steps: a generator that yields where it may be left, and returns what it comes to
staging    between numpy and the device: arrays in, answers out, each of them once a batch
"""
