FROM base AS b
FROM base
RUN --mount=target=/ctx --mount=type=bind,from=b,source=/etc,target=/e,rw --mount=type=cache,id=c,target=/c,sharing=locked,from=b,source=/bin,mode=0700,uid=1,gid=2,ro --mount=type=tmpfs,target=/t,size=1m --mount=type=secret,id=s,target=/s,required,mode=0440 --mount=type=secret,id=e,env=E --mount=type=ssh,id=k,target=/k,required=false true
