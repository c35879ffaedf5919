FROM base
RUN <<EOF
#!/bin/sh
echo $0 > /out
EOF
