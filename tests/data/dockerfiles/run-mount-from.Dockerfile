FROM base
RUN --mount=from=$X,target=/x true
