FROM base
WORKDIR /a
WORKDIR b/../c
RUN pwd > /out
