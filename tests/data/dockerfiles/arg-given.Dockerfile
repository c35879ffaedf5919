FROM base
ARG A
ARG B=2
ARG C=3
ARG D
RUN echo $A$B$C$D > /out
