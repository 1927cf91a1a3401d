"""The stations around every request, whatever its route.

accept       what a caller likes best, by Accept
auth         who may ask: API keys as digests, compared in constant time, before anything is read
compression  smaller JSON for callers who ask: zstd or gzip over 1 KiB, never for tensors in binary formats
gate         the limits on headers and body, kept while they are read, whatever the route does with them
head_method  HEAD: what GET would say, without its body (RFC 9110, section 9.3.2). Load balancers look at
             health so
host         what our own server says to the application in the scope of a request, beyond what ASGI has
lifecycle    where the process is in its life: one word that health, middleware and the server agree on
middleware   around every request: its id, its line in the log, its numbers, and the last handler
paths        a proxy's prefix taken off paths, and names that a platform gives two routes
quotas       how much one caller may ask: requests a second, tokens a second, requests at a time
shortcut     the way past the framework for the routes that carry the load
stages       when a traced request was where, for whoever makes spans of it
stations     the chain of stations around the routes, and the application that stands in it
unpacking    request bodies in gzip or deflate, unpacked before a route sees them, whichever route it is
"""
