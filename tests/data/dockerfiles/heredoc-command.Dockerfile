FROM base
RUN cat <<EOF > /out
  kept $HOME
EOF
