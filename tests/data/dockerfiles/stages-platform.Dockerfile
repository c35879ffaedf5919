FROM --platform=linux/arm64/v8 base AS a
FROM a AS b
FROM --platform=$TARGETPLATFORM base AS c
FROM --platform=linux/amd64 base AS amd64-tools
FROM scratch
