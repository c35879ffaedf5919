FROM scratch
COPY <<-EOF /f
	one
		two
  three
	EOF
