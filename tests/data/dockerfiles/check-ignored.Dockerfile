FROM scratch
COPY a.txt b.log /
ADD dir/x /y
COPY . /all
