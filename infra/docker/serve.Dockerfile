# syntax=docker/dockerfile:1
# The image of all that serves: Ray's head and workers, and KServe's predictors. From the root of the repository:
#
#   docker build -f infra/docker/serve.Dockerfile -t REGISTRY/v2meow-serve:0.1.0 .
#
# PYTHON_DIGEST and UV_DIGEST, each @sha256:…, fix the very bytes of the base images. torch's wheels carry CUDA, so that
# one image runs on CPUs and, under NVIDIA's container runtime, on GPUs.
ARG PYTHON_DIGEST=""
ARG UV_DIGEST=""

FROM ghcr.io/astral-sh/uv:0.13.9${UV_DIGEST} AS uv

FROM python:3.11.14-slim-bookworm${PYTHON_DIGEST} AS build
COPY --from=uv /uv /usr/local/bin/uv
ENV UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /app
# Dependencies first: this layer stands until the lock file changes.
COPY pyproject.toml uv.lock ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --frozen --no-dev --no-install-project --extra serve --extra extractors --extra s3
COPY README.md LICENSE dvc.yaml prefect.yaml ./
COPY v2meow v2meow
COPY serving serving
COPY flows flows
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --frozen --no-dev --no-editable --extra serve --extra extractors --extra s3

FROM python:3.11.14-slim-bookworm${PYTHON_DIGEST}
# wget is what KubeRay's probes call.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 v2meow \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin v2meow
COPY --from=build /app/.venv /app/.venv
# Nothing is written outside /tmp and /workspace: the root of the file system can be read-only.
ENV PATH=/app/.venv/bin:$PATH \
    HOME=/tmp \
    NUMBA_CACHE_DIR=/tmp/numba \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serving.patience:in_proxy \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
# Of `docker run`; in a cluster the manifests say what is asked instead.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["v2meow", "serve", "--host", "0.0.0.0", "--port", "8000", "--keys", "/etc/v2meow/keys.json"]
