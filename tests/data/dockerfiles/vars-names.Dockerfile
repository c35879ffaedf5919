FROM scratch
ENV A=1 A_2=3
ENV B=$A-$A_2.$A$ C=$9x D="$" E=${A}_2 F=a$ G=$(A)
