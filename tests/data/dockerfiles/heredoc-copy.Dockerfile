FROM scratch
ENV V=1
COPY <<plain <<"quoted" /dir/
v is $V and "${V:-2}" \$V
plain
v is $V
quoted
