FROM scratch AS a
ENV A=1
FROM scratch AS b
ENV B=1
FROM scratch AS c
