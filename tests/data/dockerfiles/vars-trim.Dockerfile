FROM scratch
ENV P=/usr/local/lib/a.tar.gz
ENV A=${P#*/} B=${P##*/} C=${P%.*} D=${P%%.*} E=${P%nothing} F=${P#/???/} G=${P%\*}
