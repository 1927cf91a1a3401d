"""One module a format: bytes to numpy and back; no HTTP, no torch.

buffers             pieces of a reply: large ones go out as the views they are, small neighbours are put
                    together
compiled/           numbers in JSON, in C, and the one module that calls it
counts              how many of a thing one request may name: looked at before any is made
dtypes              number formats on the wire: each protocol's names for them, and exact conversions
effort              how much a piece of work may do where it is done: what is too much for the event loop
                    goes to a thread
json_format         JSON, both ways: bytes ↔ numpy without a Python float in between
json_strings        how much of a JSON body is in strings and how much outside, counted without parsing it
json_tensor         one array of a JSON body, from simdjson's proxy to numpy: its shape proved, its numbers
                    copied flat
json_text           any reply as JSON text: orjson, and compiled code for the arrays in it where there is
                    any
names               names that callers wrote: made fit for a message or a log line, and told from names that
                    are ours
npy                 the `.npy` format, versions 1 to 3, both ways: one array a body. A header is parsed,
                    never evaluated
oip                 Open Inference Protocol v2 bodies, JSON with or without the binary tensor extension,
                    both ways
oip_tensor          one tensor of the Open Inference Protocol: its numbers in JSON, or as bytes after it,
                    both ways
reply               what a reply says before it is bytes: every format of `service/wire` encodes this
safetensors_format  the safetensors format, both ways: named tensors, views in, header and views out
tensor_bodies       what `.npy` and safetensors bodies mean to Heed: one array or named tensors ↔ inputs and
                    outputs
"""
