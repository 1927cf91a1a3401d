"""What a person types after `heed`: one module a command, and what they share.

bench      `heed bench`: a small closed-loop load test of a running server
client     `heed models` and `heed attend`: a caller of a running server, over `heed-client`
heads      `heed heads`: head sets of a model folder, imported from other people's files and listed
importing  `heed import`: a model folder into the repository, and a few lines on what it is
train      `heed train`: options to a plan, a progress bar, a checkpoint when it is interrupted
"""
