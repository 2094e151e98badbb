/* SPDX-License-Identifier: Apache-2.0
 * The list of the pages that a guest wanted first after it was loaded here, kept beside its record from the end of the
 * fill to its next save. What is in it is watari-stream's, who checks it; here it is an array of bounded size.
 *
 * It lives as long as this QEMU: a guest that was booted anew has another memory. Lost, it costs the next move some
 * tens of ms and nothing else, so no failure of it is one of the move's. Must never: fail aloud, or be given to another QEMU's
 * guest. */
#pragma once

#include "base/json.h"

#define HOT_LIST_FILE "hot.json"

void hot_list_keep(int dir_fd, const json_t *list);
/* A new reference, or NULL: there is none. */
json_t *hot_list_get(int dir_fd);
