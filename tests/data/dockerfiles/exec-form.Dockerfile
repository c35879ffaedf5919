FROM base
RUN ["/bin/sh", "-c", "echo 'a b' > /out"]
CMD ['a', 'b']
ENTRYPOINT ["/e", "\u00e9"]
