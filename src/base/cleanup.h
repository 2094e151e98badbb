/* SPDX-License-Identifier: Apache-2.0
 * Release on scope exit. Declare where you acquire; hand ownership on with STEAL(). Every helper takes NULL or -1.
 * Promises: what is declared so is released once, on every way out of its scope. Must never: stand on what is borrowed. */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_free_(void *pp)
{
	free(*(void **)pp);
}

static inline void cleanup_fd_(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void cleanup_file_(FILE **file)
{
	if (*file)
		fclose(*file);
}

#define CLEANUP(fn) __attribute__((cleanup(fn)))
#define CLEANUP_FREE CLEANUP(cleanup_free_)
#define CLEANUP_FD CLEANUP(cleanup_fd_)
#define CLEANUP_FILE CLEANUP(cleanup_file_)

/* The pointer, or the descriptor, is now the receiver's. */
#define STEAL(p)                                                                                                       \
	({                                                                                                             \
		__typeof__(p) steal_ = (p);                                                                            \
		(p) = NULL;                                                                                            \
		steal_;                                                                                                \
	})
#define STEAL_FD(fd)                                                                                                   \
	({                                                                                                             \
		int steal_ = (fd);                                                                                     \
		(fd) = -1;                                                                                             \
		steal_;                                                                                                \
	})

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
