"""What a person types after `heed`: one module a command, and what they share.

bench      `heed bench`: a small closed-loop load test of a running server, from where its callers stand
client     `heed models` and `heed attend`: the command line as a caller of a running server, over
           `heed-client`
importing  the command `heed import`: a model folder into the repository, and a few lines on what it is
train      the command `heed train`: options to a plan, a progress bar, and a checkpoint when it is
           interrupted
"""
