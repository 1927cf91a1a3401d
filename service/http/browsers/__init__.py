"""What is told to browsers, and believed of them: pages of other origins, frames, and headers that protect.

cross_origin  pages of other origins: which may call from a script, and what they may read of a reply
origins       origins of pages, and paths, as an operator writes them: checked, and as browsers send them
protection    headers that tell a browser what it may do with a reply
"""
