"""Several HTTP processes in front of one queue and one device.

In the first process, which has the device:
supervisor     takes the address, starts the HTTP processes, sees them end
device         tells each HTTP process of models and health, and answers its questions
submissions    puts the requests of an HTTP process into the engine, and hands their answers back

In each HTTP process:
worker         a server without queue and device
remote_engine  the queue, as routes see it: sends requests, awaits answers
remote         the models, as routes see them, with their tokenizers

Between them:
messages       what they tell each other, each message a type
channel        a socket that carries messages
memory         shared memory that carries arrays
"""
