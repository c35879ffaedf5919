FROM scratch
ENV EMPTY= SET=s
ENV A=${EMPTY:-x} B=${EMPTY-x} C=${NONE-x} D=${EMPTY:+y} E=${EMPTY+y} F=${NONE+y} G=${SET:-x} H=${SET+y}
