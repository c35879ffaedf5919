FROM base
RUN --mount=type=cache,size=1m,target=/x true
