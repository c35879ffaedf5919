FROM scratch
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d --unpack=true --chmod=600 https://example.invalid/a.tar /a/
ADD --keep-git-dir --link https://example.invalid/r.git#main:sub /r
ADD --keep-git-dir=false --exclude=b dir /e
