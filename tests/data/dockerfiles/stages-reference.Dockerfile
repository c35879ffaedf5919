FROM Base:1
