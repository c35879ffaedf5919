FROM scratch AS One
COPY a.txt /a
FROM scratch
COPY --from=ONE /a /b
COPY --from=0 /a /c
COPY --from=other:1 /etc/name /d
