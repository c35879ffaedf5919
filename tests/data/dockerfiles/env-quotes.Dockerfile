FROM scratch
ENV E1=abc E2="a b" E3='q $E1' E4=a\ b E5=${UNSET:-def} E6=${E1:+alt} E7=\$E1 E8=$E1$E1
ENV E1=new E9=$E1
