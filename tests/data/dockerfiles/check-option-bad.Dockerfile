# check=skipp=a
FROM base
