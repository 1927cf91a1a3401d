"""The server's life and its connections: bytes of a socket become requests, bodies in place.

beside      what a process serves beside HTTP, on a port of its own: begun and ended with it
connection  one TCP connection: its life, its replies, and how long it may keep us waiting
cycle       one request on a connection, as uvicorn runs it: what it is given, and whether its caller is
            still there
endings     connections that the server ended by itself: each counted, and a log line that does not flood
framing     what the headers of a request say of its body: how long it is, and what lies in it
leftovers   what a running server keeps in the temporary folder, and what earlier ones that were killed left
            there
outgoing    what replies write, held until it is worth a call of the kernel
pace        how far a caller is behind: with a request's head, with its body, or with reading a reply
places      how many connections there may be, and who goes when there are too many
reading     requests out of the bytes of a connection: uvicorn's httptools protocol, with the limits it does
            not have
relied_on   what is used of uvicorn, httptools and the framework that they promise to nobody: looked at once
server      the process: sockets, signals, and an end that loses nothing and is never late
sweep       over all connections, twice a second: those that are too late are ended, a few at a time
"""
