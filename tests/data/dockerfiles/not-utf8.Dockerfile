FROM scratch
ENV A=café
