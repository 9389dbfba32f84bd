# A mount as a container:
#     docker run --device /dev/fuse --cap-add SYS_ADMIN -v /srv/ckpt:/mnt:rshared -v ckptfs-cache:/var/cache/ckptfs \
#         -e AWS_PROFILE -v ~/.aws:/root/.aws:ro ckptfs s3://models/llama /mnt/llama
# /srv/ckpt must be a shared mount point of the host; other containers take it with `:rslave`.

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY ckptfs ckptfs
COPY daemon daemon
RUN python -m venv /opt/ckptfs && /opt/ckptfs/bin/pip install --no-cache-dir '.[daemon]'

FROM python:3.11-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends fuse3 libfuse2 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/ckptfs /opt/ckptfs
ENV PATH=/opt/ckptfs/bin:$PATH CKPTFS_CACHE_DIR=/var/cache/ckptfs PYTHONUNBUFFERED=1
VOLUME /var/cache/ckptfs
STOPSIGNAL SIGTERM
ENTRYPOINT ["ckptfs", "mount", "--foreground"]
