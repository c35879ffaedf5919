ARG G=glob
FROM scratch
ENV A=$G
ARG G
ENV B=$G
