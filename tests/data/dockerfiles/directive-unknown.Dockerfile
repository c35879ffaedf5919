# colour=red
# escape=`
FROM scratch
ENV A=a\ b
