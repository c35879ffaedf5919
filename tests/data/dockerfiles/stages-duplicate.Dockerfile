FROM scratch AS a
ENV N=1
FROM a AS b
FROM scratch AS a
COPY a.txt /x
FROM b
COPY --from=a /x /x
