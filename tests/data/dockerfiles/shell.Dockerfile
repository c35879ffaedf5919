FROM base
SHELL ["/bin/sh", "-ec"]
RUN echo a > /out
CMD echo b
