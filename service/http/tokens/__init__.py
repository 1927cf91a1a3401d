"""Tokens of texts without computing: `POST /v1/tokenize`, and the line of requests that compute nothing.

line     one request that computes nothing, from its first byte to its last
routes   `POST /v1/tokenize`
schemas  its request and its reply, as they are checked and documented
"""
