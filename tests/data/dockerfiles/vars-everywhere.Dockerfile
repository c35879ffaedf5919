FROM base
ENV D=/data U=1000 S=TERM P=80 F=a.txt
WORKDIR $D/w
USER $U:$U
STOPSIGNAL SIG$S
EXPOSE $P $P/udp
VOLUME $D/v ["$D"]
VOLUME ["$D/x y"]
COPY --chown=$U --chmod=64$NO $F $D/
LABEL l$U="$D"
CMD echo $D
