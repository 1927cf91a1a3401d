"""Between numpy and the device: memory, copies in and out, steps, signs of life.

allocator  keeps large blocks of memory for the next batch, instead of giving them back and asking again
capacity   what this process may use: memory, so that a model that does not fit is refused unread, and cores
answers    who collects what a sequence asks for, by the device, and answers made of it
collect    what a sequence asked for, gathered layer by layer into arrays that may cross the wall
gathering  what a batch gives back on a GPU: one block, brought over in one copy
graphs     CUDA graphs: launches that are recorded once, and made again in one call
locked     page-locked memory for a GPU's copies: exact, bounded, given back
packed     what a sequence asked for on a GPU, put where that of its batch is gathered
regions    how the outputs of a batch lie in that block
gpu        a CUDA device: streams to run batches in, and whether it lives
products   what float32 products are made of on a GPU: float32, or TF32 where that is asked for
signs      signs of life from batches, for whoever watches the device
staging    arrays in, answers out, each of them once a batch
steps      work that yields where it may be left for a moment
"""
