FROM base AS one
ENV A=${V:-none}
ARG V=1
RUN echo $V > /one
FROM one
RUN echo $V > /two
FROM base
RUN echo ${V:-none} > /three
COPY --from=1 /two /two
