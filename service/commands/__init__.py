"""What a person types after `heed`: one module a command, and what they share.

attending  `heed attend`: whom each token attends to, what comes next, and what either is after edits
bench      `heed bench`: a small closed-loop load test of a running server
client     `heed models`, and what every command has that asks a running server, over `heed-client`
drawing    attention and predictions as lines of a terminal
healthcheck  `heed healthcheck`: whether the server in this container answers
heads      `heed heads`: head sets of a model folder, imported from other people's files and listed
importing  `heed import`: a model folder into the repository, and a few lines on what it is
loading    the runtime with its models loaded, for `heed serve`
tokenizing  `heed tokenize`: a text's tokens, or how many they are
train      `heed train`: options to a plan, a progress bar, a checkpoint when it is interrupted
typed      heads, positions and edits as they are typed
"""
