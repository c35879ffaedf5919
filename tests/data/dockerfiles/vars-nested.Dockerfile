FROM scratch
ENV A=1
ENV B=${X:-${Y:-<$A>}} C=${A:+"${A} ${A}"}
