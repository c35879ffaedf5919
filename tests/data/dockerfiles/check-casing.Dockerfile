FROM scratch as Build
env A=1
Env B=1
ENV C=1
