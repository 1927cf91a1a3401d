"""What is summed of weights while rows are walked: over heads, over spans of keys, along diagonals.

Nothing of [H, T, S] is held: a block of weights at a time is added to what comes out.

mixtures  weighted sums over heads, over columns or rows where they are asked for, and maps of contacts
profiles  six numbers a head: where it looks, how far and how sharply
shares    a row's mass on some keys over its mass on others
"""
