FROM scratch
COPY ["a b.txt", "/with blank/"]
