FROM scratch
ENV E=
ENV A=${E?no}
ENV B=${E:?}
