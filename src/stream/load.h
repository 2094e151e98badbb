/* SPDX-License-Identifier: Apache-2.0
 * The load side: a state directory towards a waiting QEMU; and check, which is a load without a QEMU (protocol.h).
 *
 * Promises: nothing is sent before the state was found whole; the state is never changed; after `loaded` only `give-up`
 * or QEMU itself ends it before the last page. */
#pragma once

#include "stream/control.h"

struct load;

/* socket -1: check. The descriptors stay the caller's. */
struct load *load_new(int socket, int dir_fd, int weight_fd, struct err *err);
/* Waits for what is under way: for tests. A process that ends need not call it, and must not while storage hangs. */
void load_free(struct load *load);

struct control_ops load_ops(struct load *load);
void load_set_control(struct load *load, struct control *control);
