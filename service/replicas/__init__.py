"""One server inside somebody else's host of replicas: what it is told, how it is reached, what it counts.

Beside the request line. Nothing here knows which host it is, so that all of it is tested without one.

forwarding  numbers of the server as a host's own metrics take them
options     settings as an application is given them, checked
replica     the server: its models loaded, its application below whatever path it was put at
"""
