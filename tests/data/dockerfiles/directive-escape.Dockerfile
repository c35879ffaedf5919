# escape=`
FROM scratch
ENV A=C:\dir `
    B=a` b C=`$A
