/* One line of text for the user beside a negative errno. */
#include <stdarg.h>
#include <stdio.h>

#include "layerfs.h"

int lfs_fail(struct lfs_error *error, int negative_errno, const char *format, ...)
{
	if (error) {
		va_list arguments;
		va_start(arguments, format);
		vsnprintf(error->text, sizeof error->text, format, arguments);
		va_end(arguments);
	}
	return negative_errno;
}
