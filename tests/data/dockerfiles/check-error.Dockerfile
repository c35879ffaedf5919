# check=error=true
FROM base
CMD a
