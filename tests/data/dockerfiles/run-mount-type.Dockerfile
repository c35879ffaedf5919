FROM base
RUN --mount=type=cahce,target=/x true
