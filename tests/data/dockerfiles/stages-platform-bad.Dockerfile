FROM --platform=a/b/c/d base
