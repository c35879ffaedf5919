FROM base AS b
ONBUILD RUN echo one > /one
ONBUILD COPY a.txt /a
FROM b
RUN cat /one /a
