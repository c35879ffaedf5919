ARG V
FROM base:$V AS a
FROM scratch
