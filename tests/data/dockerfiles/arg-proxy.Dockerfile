FROM base
ENV A=${http_proxy:-none}
RUN echo ${http_proxy:-none} > /out
