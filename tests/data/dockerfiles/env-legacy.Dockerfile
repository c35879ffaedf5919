FROM scratch
ENV A b  c=d "e"
