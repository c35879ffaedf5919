/* Bytes as the inside of a JSON string, the way docker's json-file logs have them: < > & and the line separators are
 * escaped too. A byte that is no UTF-8 becomes the lone surrogate U+DC80..U+DCFF (Python's surrogateescape), which other
 * readers show as U+FFFD, so a log loses nothing. */
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "monitor.h"

static const char digits[] = "0123456789abcdef";

static bool continues(const uint8_t *at, const uint8_t *end, int count)
{
	if (end - at <= count)
		return false;
	for (int i = 1; i <= count; i++)
		if ((at[i] & 0xc0) != 0x80)
			return false;
	return true;
}

/* How many bytes the valid UTF-8 sequence at `at` has; 0 when it is none. */
static int sequence_length(const uint8_t *at, const uint8_t *end)
{
	if (at[0] >= 0xc2 && at[0] < 0xe0)
		return continues(at, end, 1) ? 2 : 0;
	if (at[0] >= 0xe0 && at[0] < 0xf0) {
		bool overlong = end - at > 1 && at[0] == 0xe0 && at[1] < 0xa0, surrogate = end - at > 1 && at[0] == 0xed && at[1] >= 0xa0;
		return continues(at, end, 2) && !overlong && !surrogate ? 3 : 0;
	}
	if (at[0] >= 0xf0 && at[0] < 0xf5) {
		bool wrong = end - at > 1 && ((at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] >= 0x90));
		return continues(at, end, 3) && !wrong ? 4 : 0;
	}
	return 0;
}

static char *put_unicode(char *out, unsigned value)
{
	memcpy(out, "\\u", 2);
	for (int i = 0; i < 4; i++)
		out[2 + i] = digits[value >> (12 - 4 * i) & 15];
	return out + 6;
}

/* One byte (or sequence) that is not copied as it is. */
static char *put_special(char *out, const uint8_t **data, const uint8_t *end)
{
	const uint8_t *at = *data;
	int length = *at < 0x80 ? 1 : sequence_length(at, end);
	*data += length ? length : 1;
	if (length == 3 && at[0] == 0xe2 && at[1] == 0x80 && (at[2] & 0xfe) == 0xa8)
		return put_unicode(out, 0x2000u | (at[2] & 0x3f));
	if (length > 1) {
		memcpy(out, at, (size_t)length);
		return out + length;
	}
	if (length == 0)
		return put_unicode(out, 0xdc00u | *at);
	const char *found = *at ? strchr("\"\"\\\\\nn\rr\tt", *at) : NULL;
	if (!found)
		return put_unicode(out, *at);
	out[0] = '\\';
	out[1] = *at == '\n' ? 'n' : *at == '\r' ? 'r' : *at == '\t' ? 't' : (char)*at;
	return out + 2;
}

static bool is_plain(uint8_t byte)
{
	return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\' && byte != '<' && byte != '>' && byte != '&';
}

#ifdef __SSE2__
/* Copies up to 16 bytes; how many of them were plain. */
static unsigned copy_plain_16(char *out, const uint8_t *at)
{
	__m128i data = _mm_loadu_si128((const __m128i *)at);
	_mm_storeu_si128((__m128i *)out, data);
	__m128i special = _mm_cmplt_epi8(data, _mm_set1_epi8(0x20)); /* signed: 0x80 and above too */
	special = _mm_or_si128(special, _mm_cmpeq_epi8(data, _mm_set1_epi8('"')));
	special = _mm_or_si128(special, _mm_cmpeq_epi8(data, _mm_set1_epi8('\\')));
	special = _mm_or_si128(special, _mm_cmpeq_epi8(data, _mm_set1_epi8('&')));
	special = _mm_or_si128(special, _mm_cmpeq_epi8(_mm_or_si128(data, _mm_set1_epi8(2)), _mm_set1_epi8('>')));
	unsigned mask = (unsigned)_mm_movemask_epi8(special);
	return mask ? (unsigned)__builtin_ctz(mask) : 16;
}
#endif

/* `out` has room for 6 bytes for each of `size`, and 16 more. Returns its new end. */
char *lfs_json_escape(char *out, const void *data, size_t size)
{
	const uint8_t *at = data, *end = at + size;
	while (at < end) {
#ifdef __SSE2__
		if (end - at >= 16) {
			unsigned plain = copy_plain_16(out, at);
			at += plain;
			out += plain;
			if (plain == 16)
				continue;
			out = put_special(out, &at, end);
			continue;
		}
#endif
		if (is_plain(*at))
			*out++ = (char)*at++;
		else
			out = put_special(out, &at, end);
	}
	return out;
}

/* RFC 3339 with nanoseconds and a Z, 30 characters, and a NUL. */
void lfs_json_time(char out[LFS_TIME_SIZE], const struct timespec *when)
{
	struct tm parts;
	gmtime_r(&when->tv_sec, &parts);
	size_t length = strftime(out, LFS_TIME_SIZE, "%Y-%m-%dT%H:%M:%S.", &parts);
	long nanoseconds = when->tv_nsec;
	for (int i = 8; i >= 0; i--, nanoseconds /= 10)
		out[length + (size_t)i] = (char)('0' + nanoseconds % 10);
	memcpy(out + length + 9, "Z", 2);
}
