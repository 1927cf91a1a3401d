"""Between numpy and the device: memory, copies in and out, steps, signs of life.

allocator  keeps large blocks of memory for the next batch, instead of giving them back and asking again
capacity   what this process may use: memory, so that a model that does not fit is refused unread, and cores
collect    what a sequence asked for, gathered layer by layer into arrays that may cross the wall
gpu        a CUDA device: streams to run batches in, and whether it lives
products   what float32 products are made of on a GPU: float32, or TF32 where that is asked for
signs      signs of life from batches, for whoever watches the device
staging    arrays in, answers out, each of them once a batch
steps      work that yields where it may be left for a moment
"""
