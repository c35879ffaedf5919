FROM scratch
ARG A=1 B=${A}2 C="$B 3" D
ENV R=$C
