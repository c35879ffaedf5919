FROM scratch
COPY --chown=1:2 --chmod=u=rwX,go=r --link --exclude=*.tmp --exclude=x/** dir /d/
COPY --parents --link=false dir/sub/two a.txt /p/
