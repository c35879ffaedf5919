FROM scratch
HEALTHCHECK --interval=1m30s --timeout=5s --start-period=1h --start-interval=100ms --retries=3 CMD curl -f a || exit 1
HEALTHCHECK CMD ["/c", "x"]
healthcheck none
