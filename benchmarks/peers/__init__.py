"""Heed beside other servers: the same layer, the same bytes, the same load, in one sitting.

Each peer lives in an environment of its own under `.cache/peers`, made when it is first needed; its
server is a small module in `servers/`, run by that environment's Python.
"""
