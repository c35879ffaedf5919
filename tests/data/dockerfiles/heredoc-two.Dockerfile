FROM base
RUN cat <<A > /a && cat <<B > /b
one
A
two
B
ENV after=1
