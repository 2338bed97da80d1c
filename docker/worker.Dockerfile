# A worker. TORCH_BUILD: `cpu`, or `cuda`, which is several gigabytes larger. TORCH_CPU_INDEX: the package
# index that has torch built for CPUs alone, by its URL.
ARG PYTHON=3.12-slim-bookworm

FROM python:${PYTHON} AS build
ARG TORCH_BUILD=cpu
ARG TORCH_CPU_INDEX
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
WORKDIR /source
# The dependencies alone, so that a change of the code leaves this layer as it is. What is installed
# by default comes with CUDA; the build for CPUs has to be there first to be taken as it is.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN case "$TORCH_BUILD" in \
      cpu) pip install --no-deps --index-url "${TORCH_CPU_INDEX:?}" "$(grep '^torch==' constraints.txt)" ;; \
      cuda) ;; \
      *) echo "TORCH_BUILD must be cpu or cuda, not '$TORCH_BUILD'" >&2; exit 1 ;; \
    esac
RUN pip install --constraint constraints.txt '.[postgres,worker]' && pip uninstall --yes holdfast
COPY migrations migrations
COPY shared shared
COPY services/__init__.py services/
COPY services/worker services/worker
COPY services/cli services/cli
RUN pip install --no-deps .

FROM python:${PYTHON}
COPY --from=build /venv /venv
# What a named volume is mounted on lends the new volume its owner.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin holdfast \
    && install --directory --owner=holdfast --group=holdfast \
        /artifacts /data /data/hub /data/statistics /scratch
ENV PATH=/venv/bin:$PATH HOME=/tmp TMPDIR=/scratch MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
