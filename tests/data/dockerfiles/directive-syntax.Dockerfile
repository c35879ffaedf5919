# syntax=docker/dockerfile:1
FROM scratch
ENV A=1
