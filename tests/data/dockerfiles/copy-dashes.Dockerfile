FROM scratch
COPY --chown=1 -- --odd /
