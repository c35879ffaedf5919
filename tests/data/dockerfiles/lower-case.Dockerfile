from scratch
env A=1
