"""What a person types after `heed`: one module a command, and what they share.

bench      `heed bench`: a small closed-loop load test of a running server
client     `heed models` and `heed attend`: a caller of a running server, over `heed-client`
importing  `heed import`: a model folder into the repository, and a few lines on what it is
train      `heed train`: options to a plan, a progress bar, a checkpoint when it is interrupted
"""
