"""Heed on Ray Serve: `service.ray:app` is what `serve run`, and `import_path` in a Serve file, name.

Beside the request line; the only room that imports Ray.

application  the builder, and what Ray asks of a replica beside its requests
"""

from service.ray.application import app as app
