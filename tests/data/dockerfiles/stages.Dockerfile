FROM base AS a
RUN echo a > /a
FROM base AS unused
RUN exit 1
FROM base
COPY --from=a /a /b
RUN --mount=from=a,source=/a,target=/m cat /m > /c
