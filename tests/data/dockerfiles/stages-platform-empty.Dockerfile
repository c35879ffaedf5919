FROM --platform=$TARGETPLATFROM base
