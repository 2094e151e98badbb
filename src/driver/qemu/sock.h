/* SPDX-License-Identifier: Apache-2.0
 * Unix sockets by a name inside an open directory, however long the directory's path is.
 * Promises: a descriptor that is the caller's, or -1. Must never: be reached by another user between its birth and its mode. */
#pragma once

#include "base/err.h"

#include <stdint.h>

/* A listening socket, 0600 (taking the place of what an earlier run has left there). */
int sock_listen(int dir_fd, const char *name, struct err *err);

/* A connected, non-blocking socket. ERR_UNAVAILABLE: nobody listens (any more). */
int sock_connect(int dir_fd, const char *name, struct err *err);
