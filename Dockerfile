# syntax=docker/dockerfile:1
# Two targets: `cpu` (the default, last) and `cuda`. Models live on a volume, /models; the root file system
# may be read-only. Every RUN step is one that also runs outside a container. deploy/try-image.sh builds and runs
# this file on a machine without docker or a registry; deploy/pin-bases.sh writes the digests of both bases here.

# Not slim: it has the compiler that the C of service/wire and of models is built with.
ARG PYTHON=python:3.11
ARG PYTHON_SLIM=python:3.11-slim

FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY service ./service
COPY models ./models
COPY client ./client
RUN python -m venv /opt/heed

FROM build AS build-cpu
# The CPU build of torch, from the index that carries it; override where a mirror has it under its own name.
ARG TORCH_SOURCE=""
RUN if [ -n "$TORCH_SOURCE" ]; then /opt/heed/bin/pip install --constraint constraints.txt --extra-index-url "$TORCH_SOURCE" torch; fi \
 && /opt/heed/bin/pip install --constraint constraints.txt ".[grpc,otel]" ./client \
 && /opt/heed/bin/python -I -c "from models.compiled.structures import NUMBERS, STRUCTURES; from models.c_library import load; from service.wire.compiled.native import native; assert native() and load('models.compiled._native', STRUCTURES, NUMBERS)" \
 && /opt/heed/bin/python -m models.training.demo /opt/demo-models

FROM build AS build-cuda
RUN /opt/heed/bin/pip install --constraint constraints.txt ".[grpc,otel,transformers]" ./client \
 && /opt/heed/bin/python -I -c "from models.compiled.structures import NUMBERS, STRUCTURES; from models.c_library import load; from service.wire.compiled.native import native; assert native() and load('models.compiled._native', STRUCTURES, NUMBERS)" \
 && /opt/heed/bin/python -m models.training.demo /opt/demo-models

FROM ${PYTHON_SLIM} AS base
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin heed \
 && mkdir -p /models && chown heed:heed /models
ENV PATH=/opt/heed/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HEED_HOST=0.0.0.0 \
    HEED_MODEL_REPOSITORY=/models
USER 10001:10001
EXPOSE 8000
VOLUME /models
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-I", "-m", "service.commands.healthcheck"]
# What was built of what, said by whoever builds: docs/releasing.md has the line.
ARG PYTHON_SLIM
ARG SOURCE=""
ARG VERSION=""
ARG REVISION=""
ARG CREATED=""
LABEL org.opencontainers.image.title="heed" \
      org.opencontainers.image.description="The attention server" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${PYTHON_SLIM}"
ENTRYPOINT ["heed"]
CMD ["serve"]

# Kernels of our own are compiled where they first run: Triton wants a C compiler for what calls them, and a folder
# that may hold programs. Without either torch's kernels serve alone.
FROM base AS cuda
USER 0:0
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
USER 10001:10001
ENV TRITON_CACHE_DIR=/tmp/triton HEED_DEVICE=cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/heed /opt/heed
COPY --from=build-cuda --chown=10001:10001 /opt/demo-models /models

FROM base AS cpu
ENV HEED_DEVICE=cpu
COPY --from=build-cpu /opt/heed /opt/heed
COPY --from=build-cpu --chown=10001:10001 /opt/demo-models /models
