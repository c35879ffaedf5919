FROM scratch
ENV ä=ü W=日本
ENV B=$ä C=${W#日} D=${W%?}
