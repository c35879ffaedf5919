ARG V=one
FROM scratch AS one
FROM scratch
COPY --from=$V /x /y
