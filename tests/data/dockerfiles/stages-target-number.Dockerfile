FROM scratch
ENV A=1
FROM scratch
