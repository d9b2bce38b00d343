# The mirror's image: small, not root, and taking what registry:2's image takes.
#
# BASE needs Python >= 3.11 as `python3`, with its venv module. With a folder wheels/ the build needs no network:
#   pip wheel --wheel-dir wheels --constraint constraints.txt . 'setuptools>=65'
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
COPY . .
# What pip and setuptools leave behind stays in this stage.
RUN python3 -m venv /opt/mirror \
    && if [ -d wheels ]; then from="--no-index --find-links wheels"; else from=""; fi \
    && /opt/mirror/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
        --constraint constraints.txt $from . \
    && /opt/mirror/bin/python -m pip uninstall --quiet --yes setuptools pip
# All that the image adds to BASE, with modes that do not depend on those of the build context. One file under
# registry:2's and registry:3's name: what is mounted at either is what is read. `registry` is what the program
# was called.
RUN install -D -m 755 docker/entrypoint.sh /image/entrypoint.sh \
    && install -D -m 644 docker/config.yml /image/etc/docker/registry/config.yml \
    && ln -s docker/registry /image/etc/distribution \
    && mkdir -p /image/opt /image/usr/bin \
    && mv /opt/mirror /image/opt/mirror \
    && install -m 644 docker/healthcheck.py /image/opt/mirror/healthcheck.py \
    && ln -s /opt/mirror/bin/mirror /image/usr/bin/registry

FROM ${BASE}
COPY --from=build /image/ /
# Bytecode of all that a start imports. python:3.13-slim has none of the standard library: compiled anew at each
# start, it takes longer than the rest of the start together.
RUN PYTHONDONTWRITEBYTECODE= /opt/mirror/bin/python -c \
    'import mirror.app, mirror.cli, mirror.commandsrun, mirror.configfile, mirror.drivers.s3, mirror.exposition, tldextract'
# A new volume takes this folder's owner.
RUN mkdir -p /var/lib/registry && chown 65532:65532 /var/lib/registry
ENV PATH=/opt/mirror/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    REGISTRY_CONFIGURATION_PATH=/etc/docker/registry/config.yml \
    PYTHONUNBUFFERED=1
VOLUME /var/lib/registry
EXPOSE 5000
WORKDIR /var/lib/registry
# A number, so that an orchestrator can see that it is not root.
USER 65532:65532
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s CMD ["python3", "/opt/mirror/healthcheck.py"]
ENTRYPOINT ["/entrypoint.sh"]
CMD ["/etc/docker/registry/config.yml"]
