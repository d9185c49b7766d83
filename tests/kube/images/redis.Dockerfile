# Debian's redis-server for the tests, made by deploy/image/rootfs.sh and build.py: the quick start's Valkey has to be
# pulled from a registry, and a test's cluster has none.
FROM scratch
ENV PATH=/usr/bin
USER 65532:65532
WORKDIR /
EXPOSE 6379
ENTRYPOINT ["/usr/bin/redis-server"]
