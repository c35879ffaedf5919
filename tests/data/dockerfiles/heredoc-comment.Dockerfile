FROM scratch
COPY <<EOF /f
# kept
FROM nothing

EOF
