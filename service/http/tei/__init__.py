"""The routes of text-embeddings-inference, all of one model, for clients that speak to it.

codec    one request to `/embed`, `/embed_all`, `/similarity` or `/` on the line, and its reply
info     `GET /info`: the model and the server's limits, in its words
inputs   `inputs` of a request: a text or token ids, or a list of either, mixed
routes   the routes, and those of heads that no model here has
schemas  the bodies, as they are checked and documented
tokens   `/tokenize` and `/decode`, which compute nothing
"""
