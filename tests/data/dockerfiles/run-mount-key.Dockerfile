FROM base
RUN --mount=type=cache,traget=/x true
