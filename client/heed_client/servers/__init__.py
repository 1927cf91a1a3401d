"""The servers of one client, and one call at them; without I/O, as all flows.

asking  one call: elsewhere where another server may answer, again where that is worth a wait
choice  whom to ask: the fewest outstanding requests among those that do not rest
"""
