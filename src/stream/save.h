/* SPDX-License-Identifier: Apache-2.0
 * The save side: QEMU's stream from a pipe into a state directory, sealed at the end (protocol.h).
 *
 * Promises: the state is whole and durable when `sealed` is posted; any failure removes the files and breaks the pipe,
 * so that QEMU's migration fails and the guest runs on.
 * Must never: post `sealed` after a cancel was accepted. */
#pragma once

#include "stream/control.h"

struct save;

/* stream_fd is closed by the save; dir_fd and memory_fd (-1: none given) stay the caller's. */
struct save *save_new(int stream_fd, int dir_fd, int memory_fd, struct err *err);
/* Ends what is under way first. */
void save_free(struct save *save);

/* The ops with which a control channel drives this save; the channel must be set before its loop runs. */
struct control_ops save_ops(struct save *save);
void save_set_control(struct save *save, struct control *control);
