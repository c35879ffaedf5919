FROM scratch
ADD <<EOF /f
x
EOF
COPY ["a.txt", "/<<EOF"]
