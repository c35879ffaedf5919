FROM scratch
MAINTAINER me <me@x>
