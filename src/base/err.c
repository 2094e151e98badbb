/* SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"

#include <errno.h>
#include <string.h>

/* Exit statuses: crm_exit_t in Pacemaker's include/crm/common/results.h. */
static const struct err_info infos[ERR_CODE_COUNT] = {
	[ERR_NONE] = {"ok", 0, "CRM_EX_OK", 200},
	[ERR_USAGE] = {"usage", 64, "CRM_EX_USAGE", 400},
	[ERR_INVALID] = {"invalid", 65, "CRM_EX_DATAERR", 400},
	[ERR_NOT_FOUND] = {"not-found", 105, "CRM_EX_NOSUCH", 404},
	[ERR_EXISTS] = {"exists", 108, "CRM_EX_EXISTS", 409},
	[ERR_BUSY] = {"busy", 75, "CRM_EX_TEMPFAIL", 409},
	[ERR_UNFIT] = {"unfit", 113, "CRM_EX_UNSATISFIED", 409},
	[ERR_NO_QUORUM] = {"no-quorum", 106, "CRM_EX_QUORUM", 503},
	[ERR_NEEDS_FORCE] = {"needs-force", 107, "CRM_EX_UNSAFE", 409},
	[ERR_DENIED] = {"denied", 77, "CRM_EX_NOPERM", 403},
	[ERR_TIMEOUT] = {"timeout", 124, "CRM_EX_TIMEOUT", 504},
	[ERR_CANCELLED] = {"cancelled", 1, "CRM_EX_ERROR", 409},
	[ERR_IO] = {"io", 74, "CRM_EX_IOERR", 500},
	[ERR_NO_SPACE] = {"no-space", 73, "CRM_EX_CANTCREAT", 507},
	[ERR_CORRUPT] = {"corrupt", 104, "CRM_EX_DIGEST", 500},
	[ERR_CONSUMED] = {"consumed", 110, "CRM_EX_EXPIRED", 409},
	[ERR_PROTOCOL] = {"protocol", 76, "CRM_EX_PROTOCOL", 502},
	[ERR_UNAVAILABLE] = {"unavailable", 69, "CRM_EX_UNAVAILABLE", 503},
	[ERR_SYSTEM] = {"system", 71, "CRM_EX_OSERR", 500},
	[ERR_NO_ROOM] = {"no-room", 75, "CRM_EX_TEMPFAIL", 409},
};

const struct err_info *err_info(enum err_code code)
{
	if ((int)code < 0 || code >= ERR_CODE_COUNT)
		code = ERR_SYSTEM;
	return &infos[code];
}

const char *err_name(int code)
{
	return err_info((enum err_code)code)->name;
}

enum err_code err_from_name(const char *name)
{
	for (int code = 0; code < ERR_CODE_COUNT; code++)
		if (!strcmp(infos[code].name, name))
			return (enum err_code)code;
	return ERR_SYSTEM;
}

int err_set(struct err *err, enum err_code code, const char *format, ...)
{
	va_list args;

	if (!err)
		return -1;
	err->code = code;
	va_start(args, format);
	vsnprintf(err->text, sizeof(err->text), format, args);
	va_end(args);
	return -1;
}

static enum err_code code_of_errno(int errno_value)
{
	switch (errno_value) {
	case ENOSPC:
	case EDQUOT:
		return ERR_NO_SPACE;
	case ENOENT:
		return ERR_NOT_FOUND;
	case ETIMEDOUT:
		return ERR_TIMEOUT;
	case EACCES:
	case EPERM:
		return ERR_DENIED;
	case EIO:
	case EROFS:
		return ERR_IO;
	default:
		return ERR_SYSTEM;
	}
}

int err_errno(struct err *err, int errno_value, const char *format, ...)
{
	char what[400];
	char reason[100];
	va_list args;

	if (!err)
		return -1;
	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	/* The GNU variant: may return a constant instead of filling the buffer. */
	const char *text = strerror_r(errno_value, reason, sizeof(reason));
	return err_set(err, code_of_errno(errno_value), "%s: %s", what, text);
}

int err_prefix(struct err *err, const char *format, ...)
{
	char what[256];
	char was[sizeof(err->text)];
	va_list args;

	if (!err)
		return -1;
	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	memcpy(was, err->text, sizeof(was));
	snprintf(err->text, sizeof(err->text), "%s: %.*s", what, (int)(sizeof(was) - sizeof(what) - 3), was);
	return -1;
}
