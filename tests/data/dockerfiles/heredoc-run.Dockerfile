FROM base
RUN <<EOF
A=1
echo $A > /out
EOF
