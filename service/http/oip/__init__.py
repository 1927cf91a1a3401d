"""The Open Inference Protocol, and Triton's extensions of it.

administration  the model repository extension: what could be served, and loading and unloading while
                serving
inference       one request of the protocol, on the same line as `attend`
outputs         answers as the protocol's outputs: a batch padded to one shape, tokens and words as strings
routes          Open Inference Protocol v2: what Triton's and KServe's own clients speak
schemas         what `/openapi.json` and `GET /v2/models/{model}` say about the Open Inference Protocol's
                bodies
statistics      the statistics extension: what was asked of a model, and where its time went
tensors         Open Inference Protocol tensors as sequences: a padded batch comes apart
"""
