"""What is read, not asked: the catalog, health, the documentation and the Explorer.

api_page  `/docs`: the API as Swagger UI draws it, from files on this machine, so that it works without a
          network
catalog   what is served: `GET /v1/models` and `/v1/models/{model}`, written from the cards and
          `models/outputs.py`
explorer  the Explorer: one page and its few files, served from the package, that show a sentence attend to
          itself
health    how the server is: `GET /health` for people and probes, `GET /metrics` for Prometheus
openapi   how the two attention routes are documented: bodies in every format, replies from the vocabulary
"""
