"""From a checked request to a batch on the device and back.

work_queue   what those who submit see of the queue
draft        the jobs of a request
job          one sequence on its way, or several that are linked; the request that it is of
cost         what sequences take of the device and of memory
engine       takes requests, hands answers back
device_slot  one of the threads that run batches
execution    one batch, with failures kept to the sequences at fault
backlog      everything that is admitted, under one lock
admission    who is let in
limits       how much one batch, one request and the queue may hold
forecast     who is refused because the answer would come too late
estimates    how long work takes
fairness     the order of those who wait
scheduler    which jobs run next
slots        how much of the device a batch gets
"""
