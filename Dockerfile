# An image of kahn, of either build:
#
#   docker build -t kahn:cloud .
#   docker build -t kahn:oss --build-arg FEATURES=oss .
#
# or around a binary that is there already, as `kahn` in a folder of its own (it has to run on BASE):
#
#   docker build -t kahn:oss --build-arg FEATURES=oss --target ready -f Dockerfile FOLDER
#
# docs/deploy.md says how each is run. No secret is needed to build it, and none is in it.
ARG BUILDER=docker.io/library/rust:1.92-bookworm
ARG BASE=docker.io/library/debian:bookworm-slim
ARG FEATURES=cloud

FROM ${BASE} AS base
LABEL org.opencontainers.image.title="kahn" \
      org.opencontainers.image.description="See what fleets of AI agents and prompt-DAG runs really did, live and afterwards, and what to look at next." \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
# A number, so that a platform sees without looking anything up that it is not root. The image has nothing that this user could write to.
USER 10001:10001
WORKDIR /
STOPSIGNAL SIGTERM
# bash speaks HTTP by itself: nothing is installed for it. Whether the process answers; /readyz would have a container replaced because its database is away.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["bash", "-c", "port=${KAHN_BIND##*:}; exec 3<>/dev/tcp/127.0.0.1/${port:-${PORT:-8080}} && printf 'GET /healthz HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -rt 4 line <&3 && [[ $line == 'HTTP/1.1 200 '* ]] || exit 1"]
EXPOSE 8080
ENTRYPOINT ["kahn"]

# It listens on all of the container's addresses: only so can a published port reach it. Publish that port on 127.0.0.1 (compose.yaml): there is no login.
FROM base AS oss
ENV KAHN_MODE=oss KAHN_BIND=0.0.0.0:8080 KAHN_ALLOW_REMOTE=true KAHN_ARCHIVE=/archive
CMD ["serve"]

# Listens on 0.0.0.0:$PORT (8080) by itself.
FROM base AS cloud
ENV KAHN_MODE=cloud
CMD ["serve"]

FROM ${FEATURES} AS ready
COPY kahn /usr/local/bin/kahn

FROM ${BUILDER} AS build
ARG FEATURES
# The commit that `kahn mode` tells; git's own folder is not in the context.
ARG KAHN_COMMIT=unknown
WORKDIR /kahn
COPY . .
RUN cargo build --release --locked --no-default-features --features "${FEATURES}" && strip -o /usr/local/bin/kahn target/release/kahn

FROM ${FEATURES}
COPY --from=build /usr/local/bin/kahn /usr/local/bin/kahn
