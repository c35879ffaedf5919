#include "text.h"

#include <stdio.h>

static size_t quote_bytes(char *out, const uint8_t *at, size_t size, size_t room)
{
	size_t used = 0;
	for (size_t i = 0; i < size; i++) {
		bool plain = at[i] >= 0x20 && at[i] != 0x7f && at[i] != '\\';
		if (used + (plain ? 1 : 4) > room)
			break;
		if (plain)
			out[used++] = (char)at[i];
		else
			used += (size_t)sprintf(out + used, "\\x%02x", at[i]);
	}
	return used;
}

const char *lfs_quote(char out[LFS_QUOTED], struct lfs_bytes name)
{
	const uint8_t *at = name.data;
	size_t used;
	if (name.size <= 180) {
		used = quote_bytes(out, at, name.size, LFS_QUOTED - 1);
	} else {
		used = quote_bytes(out, at, 100, 100);
		memcpy(out + used, "...", 3);
		used += 3;
		used += quote_bytes(out + used, at + name.size - 80, 80, 100);
	}
	out[used] = '\0';
	return name.size ? out : "(empty name)";
}

bool lfs_decimal(struct lfs_bytes text, uint64_t *value)
{
	const uint8_t *at = text.data;
	uint64_t result = 0;
	for (size_t i = 0; i < text.size; i++) {
		if (at[i] < '0' || at[i] > '9' || result > (INT64_MAX - (uint64_t)(at[i] - '0')) / 10)
			return false;
		result = result * 10 + (at[i] - '0');
	}
	*value = result;
	return text.size > 0;
}
