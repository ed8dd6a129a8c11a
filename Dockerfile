# The one image of all services: the `inferno` command, and nothing to build with. Not built where it was written (no
# daemon there): a test runs its install steps in a clean directory, and checks the rest as text.
#   docker build -t inferno-loop . --load
#   docker run --rm --read-only --tmpfs /tmp inferno-loop sim --data sample-data/small --hours 0.1 --out /tmp/out

FROM python:3.11.13-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/build && python -m venv /opt/inferno
# By digest (make requirements): of a pinned version, another file than the one that is known is refused.
COPY requirements requirements
RUN /opt/build/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement requirements/build.txt
# With --build-arg EXTRAS=[dask,fast] it is the image of a Dask cluster too (docs/dask.md).
ARG EXTRAS=
RUN /opt/inferno/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement "requirements/${EXTRAS:+extras-}image.txt"
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY inferno inferno
COPY twin twin
COPY loop loop
COPY emulator emulator
COPY experiments experiments
COPY sample-data sample-data
COPY yamls yamls
RUN /opt/build/bin/python -m pip wheel --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir wheels .
RUN /opt/inferno/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps --no-index wheels/*.whl

FROM python:3.11.13-slim-bookworm
LABEL org.opencontainers.image.title="Inferno Twin" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/inferno /opt/inferno
COPY sample-data /app/sample-data
# The root file system may be read-only: what is written goes to /tmp.
ENV PATH=/opt/inferno/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /app
USER 10001:10001
EXPOSE 3300 3301 3302 3303
ENTRYPOINT ["inferno"]
CMD ["--help"]
