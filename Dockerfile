# PostgreSQL 16 with pgvector, pgedge, pg_net and pg_stat_statements, for linux/arm64 and linux/amd64.
#   docker build -t pgedge .
#   docker buildx build --platform linux/arm64,linux/amd64 -t … .
# pgvector/pgvector:pg16 at a release: health() warns of pgvector below 0.8.3.
ARG BASE_IMAGE=pgvector/pgvector:0.8.6-pg16-bookworm
ARG RUST_IMAGE=rust:1.95.0-slim-bookworm

FROM ${RUST_IMAGE} AS rust

# Built on the base itself, so that the libraries fit the server and the C library of the final image.
FROM ${BASE_IMAGE} AS tools
ARG PG_MAJOR=16
USER root
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git gcc libc6-dev make pkg-config libclang-dev libssl-dev libcurl4-openssl-dev \
        "postgresql-server-dev-$PG_MAJOR" \
    && rm -rf /var/lib/apt/lists/*
ENV PG_CONFIG=/usr/lib/postgresql/$PG_MAJOR/bin/pg_config

FROM tools AS pg_net
# WITH_PG_NET=0 leaves pg_net out, and out of shared_preload_libraries. PG_NET_COMMIT is what the tag must stand for.
ARG WITH_PG_NET=1
ARG PG_NET_VERSION=v0.20.5
ARG PG_NET_COMMIT=a8299b11182ea5c974f5e89ae83e70e9e44e9e8f
ARG PG_NET_SOURCE=https://github.com/supabase/pg_net.git
RUN mkdir -p /out/usr && [ "$WITH_PG_NET" = 0 ] || { \
    git clone --depth 1 --branch "$PG_NET_VERSION" "$PG_NET_SOURCE" /src/pg_net \
    && [ "$(git -C /src/pg_net rev-parse HEAD)" = "$PG_NET_COMMIT" ] \
    && make -C /src/pg_net PG_CONFIG="$PG_CONFIG" with_llvm=no \
    && make -C /src/pg_net PG_CONFIG="$PG_CONFIG" with_llvm=no DESTDIR=/out install \
    && rm -rf /out/usr/include; }

FROM tools AS build
ARG PG_MAJOR=16
ARG PGRX_VERSION=0.18.1
COPY --from=rust /usr/local/cargo /usr/local/cargo
COPY --from=rust /usr/local/rustup /usr/local/rustup
ENV CARGO_HOME=/usr/local/cargo RUSTUP_HOME=/usr/local/rustup PGRX_HOME=/src/pgrx PATH=/usr/local/cargo/bin:$PATH
# A debug build: it only drives the build and takes a third of the time to make.
RUN cargo install cargo-pgrx --version "$PGRX_VERSION" --locked --debug
WORKDIR /src/pgedge
COPY Cargo.toml Cargo.lock pgedge.control ./
COPY .cargo .cargo
COPY crates crates
COPY sql sql
COPY src src
RUN mkdir -p "$PGRX_HOME" \
    && printf '[configs]\npg%s = "%s"\n' "$PG_MAJOR" "$PG_CONFIG" >"$PGRX_HOME/config.toml" \
    && cargo pgrx package --pg-config "$PG_CONFIG" --no-default-features --features "pg$PG_MAJOR" --out-dir /out

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="pgedge" \
      org.opencontainers.image.description="PostgreSQL 16 with pgvector, pgedge and pg_net for an edge AI box" \
      org.opencontainers.image.licenses="PostgreSQL"
USER root
RUN apt-get update \
    && apt-get install -y --no-install-recommends libcurl4 openssl \
    && rm -rf /var/lib/apt/lists/*
COPY --from=pg_net /out/usr /usr
COPY --from=build /out/usr /usr
COPY docker/postgresql.conf /etc/postgresql/postgresql.conf
# Preloading what is not there would keep the server from starting.
RUN find /usr/lib/postgresql -name pg_net.so | grep -q . || sed -i "s/'pg_net,/'/" /etc/postgresql/postgresql.conf
COPY docker/initdb /docker-entrypoint-initdb.d
COPY docker/healthcheck.sh /usr/local/bin/pgedge-healthcheck
COPY docker/bin /usr/local/bin
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=5 CMD ["pgedge-healthcheck"]
# A fast shutdown, as in the base image.
STOPSIGNAL SIGINT
CMD ["postgres", "-c", "config_file=/etc/postgresql/postgresql.conf"]
