# check=skip=JSONArgsRecommended,StageNameCasing
FROM base AS A
CMD a
# check=skip=MaintainerDeprecated
MAINTAINER m
MAINTAINER n
