FROM scratch
ONBUILD CPOY a b
