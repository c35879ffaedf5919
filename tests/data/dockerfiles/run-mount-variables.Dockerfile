FROM base
ARG ID=x T=/t
RUN --mount=type=cache,id=$ID,target=${T}/c,sharing=private echo a > /out
