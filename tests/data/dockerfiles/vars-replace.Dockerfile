FROM scratch
ENV P=a/b/a.b
ENV A=${P/a/x} B=${P//a/x} C=${P//\//-} D=${P//./} E=${P/?\/b/z} F=${P//b*/z} G=${NONE//a/b}
