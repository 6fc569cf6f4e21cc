# syntax=docker/dockerfile:1
# The image of all that makes models: Ray's head and workers of a training, and Prefect's worker. From the root of the
# repository:
#
#   docker build -f infra/docker/train.Dockerfile -t REGISTRY/v2meow-train:0.1.0 .
#
# PYTHON_DIGEST and UV_DIGEST, each @sha256:…, fix the very bytes of the base images.
ARG PYTHON_DIGEST=""
ARG UV_DIGEST=""

FROM ghcr.io/astral-sh/uv:0.13.9${UV_DIGEST} AS uv

FROM python:3.11.14-slim-bookworm${PYTHON_DIGEST} AS build
COPY --from=uv /uv /usr/local/bin/uv
ENV UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /app
# Dependencies first: this layer stands until the lock file changes. `serve` brings Ray's job server.
COPY pyproject.toml uv.lock ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --frozen --no-dev --no-install-project --extra pipeline --extra extractors --extra cluster --extra serve \
    --extra orchestrate --extra s3
COPY README.md LICENSE dvc.yaml prefect.yaml ./
COPY v2meow v2meow
COPY serving serving
COPY flows flows
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --frozen --no-dev --no-editable --extra pipeline --extra extractors --extra cluster --extra serve \
    --extra orchestrate --extra s3

FROM python:3.11.14-slim-bookworm${PYTHON_DIGEST}
# git: a workspace is a git folder, on a volume that may belong to another user. wget is what KubeRay's probes call. gcc: what torch.compile makes is compiled.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc git libc6-dev wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 v2meow \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin v2meow \
    && git config --system --add safe.directory /workspace
COPY --from=build /app/.venv /app/.venv
# Nothing is written outside /tmp and /workspace: the root of the file system can be read-only.
ENV PATH=/app/.venv/bin:$PATH \
    HOME=/tmp \
    NUMBA_CACHE_DIR=/tmp/numba \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /workspace
# It runs steps, and no server that could be asked; a hung step is ended by its own time limit.
HEALTHCHECK NONE
CMD ["v2meow", "--help"]
