FROM base AS b
ARG A=arg
ENV A=env
RUN echo $A > /one
ARG A=again
RUN echo $A > /two
FROM b
RUN echo $A > /three
