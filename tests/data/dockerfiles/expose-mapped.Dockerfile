FROM scratch
EXPOSE 127.0.0.1:8080:80 [::1]:1:81/udp
