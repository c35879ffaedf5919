FROM base
RUN echo one \
# not this
  # nor this
  two > /out
