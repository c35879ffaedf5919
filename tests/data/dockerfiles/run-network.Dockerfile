FROM base
RUN --network=none --security=sandbox true
RUN --network=host --security=insecure --device=vendor.com/class=name,required true
