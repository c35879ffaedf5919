# check=experimental=all
# build makes it
FROM scratch AS build
# something
FROM scratch AS run
# A is a
ARG A
# what is B
ARG B
