FROM base:latest AS a
ENV A=1
FROM other AS b
ENV B=1
FROM scratch
COPY --from=a /x /a
COPY --from=b /x /b
COPY --from=third /x /c
