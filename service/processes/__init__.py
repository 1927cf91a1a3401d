"""Several HTTP processes in front of one queue and one device.

supervisor     the first process: the address, the device, and the others' lives
device         there: what each HTTP process is told of models and health
submissions    there: its requests into the engine, and their answers back
worker         an HTTP process
remote_engine  there: the queue, as its routes see it
remote         there: the models
messages       what the two tell each other
channel        over which they do
memory         where arrays are meanwhile
"""
