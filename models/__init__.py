"""What attention is: specifications, mathematics, weights and the device.

attention/     attention: its mathematics, who computes it, and everything that is made of it but z
c_library      our own C, loaded where it was built for the structures that Python declares
cards          what is served under which name, with one answer to a wrong name
compiled/      products, attention and feed-forward networks in C, and the module that calls them
config         `config.json` files: read strictly, and turned into specification classes field by field
device/        between numpy and the device: memory, copies in and out, signs of life
edit           one edit of a sequence's attention: where, and what
edits/         edits carried out, in each layer: on scores, on weights and on z
encoder/       our own stack on packed rows: embedding, positions, blocks, norms, MLPs, pooling
errors         what can go wrong below the wall, and what an exception that nobody foresaw means
folders/       reading model folders: what a folder declares, what its tensors are called, and its weights
halves         numbers of 16 bits on their way to the device, kept as they came
heads/         head sets: lists of (layer, head) pairs that a folder keeps under names
loading        from a model folder to cards that can be served, by our own encoder or by transformers
mechanism      one attention: how scores are made, where queries, keys and values come from, positions
outputs        every output that can be asked for, and what is asked of one sequence
pooling_spec   how one vector is made of a sequence: what a folder declares of it
predictions/   which words a model predicts: log-probabilities of all of them, of which a few are kept
pretrained/    other people's architectures with our attention inside, probed before they are served
protocol       the wall: what crosses between `service/` and `models/`, and the one Protocol
regular_files  only regular files are opened, and none of a folder that has anything else in their place
runtime        the device: loads model folders, runs ragged batches, gives numpy back
shapes         the exact shape of every output, and its size in bytes
spec           what a model folder declares: the mechanism of one attention, and the stack around it
text/          text into tokens: tokenizers made of a folder's files, tried before they are trusted
training/      nothing that serves: learning a small causal model, and the demo models
"""
