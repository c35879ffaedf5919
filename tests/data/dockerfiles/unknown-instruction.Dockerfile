FROM base
RUNN echo a
