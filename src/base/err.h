/* SPDX-License-Identifier: Apache-2.0
 * What went wrong, for a person and for a program.
 *
 * A failing world returns -1 and fills a struct err that lives on the caller's stack; nobody logs below the caller.
 * Each code maps, in one table (err.c), to a name, an HTTP status and an exit status of Pacemaker's crm_exit_t, so
 * that the CLI, the API and the console never disagree. A bug is an assert, never an err.
 * Promises: whatever went wrong, *err holds a code and a text for a person. Must never: decide what the callee does (it is an
 * output, and NULL where nobody asks); hold a secret. */
#pragma once

#include "base/cleanup.h"

#include <stdarg.h>

enum err_code {
	ERR_NONE = 0,
	ERR_USAGE,	 /* the command line or the call is not of the right form */
	ERR_INVALID,	 /* a value breaks a rule; the text names the rule */
	ERR_NOT_FOUND,	 /* no such VM, node, task */
	ERR_EXISTS,	 /* the name, or the disk, is taken */
	ERR_BUSY,	 /* another task is under way; the text names it */
	ERR_UNFIT,	 /* a node or a VM cannot do this; the text has the fact */
	ERR_NO_QUORUM,	 /* this node is not in a quorate, synced view */
	ERR_NEEDS_FORCE, /* possible, but only with --force */
	ERR_DENIED,	 /* the caller has no right to it */
	ERR_TIMEOUT,	 /* no answer within the limit; the outcome may be unknown */
	ERR_CANCELLED,	 /* stopped on request */
	ERR_IO,		 /* a file or device failed */
	ERR_NO_SPACE,	 /* ENOSPC or EDQUOT */
	ERR_CORRUPT,	 /* a checksum or a format does not hold */
	ERR_CONSUMED,	 /* a saved state was resumed already */
	ERR_PROTOCOL,	 /* a peer, QEMU or a client broke the protocol */
	ERR_UNAVAILABLE, /* the daemon or a service it needs does not answer */
	ERR_SYSTEM,	 /* any other failed system call */
	ERR_NO_ROOM,	 /* a node has no memory free for it now, whatever is booked: nothing has begun */
	ERR_CODE_COUNT
};

struct err {
	enum err_code code;
	char text[512]; /* one sentence fragment, no full stop, no newline */
};

struct err_info {
	const char *name;      /* "not-found": in the API's answers */
	int exit_status;       /* crm_exit_t */
	const char *exit_name; /* "CRM_EX_NOSUCH" */
	int http_status;
};

/* Never NULL: an unknown code is described as ERR_SYSTEM. */
const struct err_info *err_info(enum err_code code);

/* Its name alone, as a schema wants it. */
const char *err_name(int code);

/* The code with this API name (not NULL), or ERR_SYSTEM. */
enum err_code err_from_name(const char *name);

/* Sets *err (which may be NULL) and returns -1, so that a failure is one statement. Truncates a long text. */
int err_set(struct err *err, enum err_code code, const char *format, ...) PRINTF_LIKE(3, 4);

/* As err_set, with ": " and the text of the errno value appended; ENOSPC and EDQUOT become ERR_NO_SPACE, ENOENT
 * becomes ERR_NOT_FOUND, ETIMEDOUT ERR_TIMEOUT, EACCES and EPERM ERR_DENIED, EIO and EROFS ERR_IO, others
 * ERR_SYSTEM. */
int err_errno(struct err *err, int errno_value, const char *format, ...) PRINTF_LIKE(3, 4);

/* Puts "CONTEXT: " in front of what *err (which may be NULL) says already, and keeps its code. Returns -1. */
int err_prefix(struct err *err, const char *format, ...) PRINTF_LIKE(2, 3);
