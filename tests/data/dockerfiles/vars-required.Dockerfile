FROM scratch
ENV A=${B:?no}
