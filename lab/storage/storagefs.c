/* SPDX-License-Identifier: Apache-2.0
 * A node's own way to the lab's shared storage, which can fail under those who use it.
 *
 *   storagefs mount DIR PLACE SOCKET   shows DIR at PLACE until it is ended or PLACE is unmounted; takes orders at
 * SOCKET storagefs tell SOCKET [MODE]       gives an order, and prints the mode
 *
 * Modes: ok; readonly (EROFS for all that changes anything, also through files that are open for writing already);
 * error (EIO for everything); hang (whoever asks waits until the mode is another one; SIGKILL ends him, as on NFS);
 * stuck (nor does that, as with a disk's paths that are all lost); full (ENOSPC for all that may need room); slow:MS
 * (each request that much later). What waited for a process that is ended was never done.
 *
 * Promises: when `tell` returns, every write that was let through under the mode before has been done, and none is done
 * later. Locks (flock, and fcntl's as those of an open file) are taken on the file below, so that they hold between the
 * nodes. What a process has cached stays readable. Closing a file always works: the locks of a process that died are
 * free. */
#define FUSE_USE_VERSION 312
#include "gate.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { BUCKETS = 1024 };

/* The kernel says so when a signal has come for the process that waits. */
static bool is_ended(void *req)
{
	return fuse_req_interrupted(req);
}

/* Begins a request's handler. */
#define PASS(need)                                                                                                     \
	do {                                                                                                           \
		int refused_ = gate_enter(need, is_ended, req);                                                        \
		if (refused_) {                                                                                        \
			fuse_reply_err(req, refused_);                                                                 \
			return;                                                                                        \
		}                                                                                                      \
	} while (0)

/* Ends one: -1 is errno's error. */
static void done(fuse_req_t req, int result)
{
	int error = result < 0 ? errno : 0;

	gate_leave();
	fuse_reply_err(req, error);
}

/* ---- inodes: an O_PATH descriptor each, for as long as the kernel knows them */

struct inode {
	struct inode *next;
	int fd;
	dev_t dev;
	ino_t ino;
	uint64_t known;
};

static struct inode root = {.known = 2};
static struct inode *buckets[BUCKETS];
static pthread_mutex_t inodes_lock = PTHREAD_MUTEX_INITIALIZER;

static struct inode *inode_of(fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID ? &root : (struct inode *)(uintptr_t)ino;
}

static int fd_of(fuse_ino_t ino)
{
	return inode_of(ino)->fd;
}

/* The one inode of this file; takes the descriptor. */
static struct inode *inode_get(int fd, const struct stat *stat)
{
	struct inode **bucket = &buckets[stat->st_ino % BUCKETS], *inode;

	pthread_mutex_lock(&inodes_lock);
	for (inode = *bucket; inode && (inode->ino != stat->st_ino || inode->dev != stat->st_dev); inode = inode->next)
		;
	if (inode) {
		close(fd);
	} else if ((inode = calloc(1, sizeof(*inode)))) {
		*inode = (struct inode){.next = *bucket, .fd = fd, .dev = stat->st_dev, .ino = stat->st_ino};
		*bucket = inode;
	}
	if (inode)
		inode->known++;
	pthread_mutex_unlock(&inodes_lock);
	return inode;
}

static void inode_put(fuse_ino_t ino, uint64_t count)
{
	struct inode *inode = inode_of(ino), **at = &buckets[inode->ino % BUCKETS];

	if (inode == &root)
		return;
	pthread_mutex_lock(&inodes_lock);
	if (!(inode->known -= count)) {
		while (*at != inode)
			at = &(*at)->next;
		*at = inode->next;
		close(inode->fd);
		free(inode);
	}
	pthread_mutex_unlock(&inodes_lock);
}

/* No time-outs: what another node does to a file is seen at once. */
static int entry_find(fuse_ino_t parent, const char *name, struct fuse_entry_param *entry)
{
	int fd = openat(fd_of(parent), name, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	memset(entry, 0, sizeof(*entry));
	if (fd < 0)
		return -1;
	struct inode *inode = fstatat(fd, "", &entry->attr, AT_EMPTY_PATH) ? NULL : inode_get(fd, &entry->attr);
	if (!inode) {
		close(fd);
		return -1;
	}
	entry->ino = (uintptr_t)inode;
	return 0;
}

/* Ends a request that asks for, or made, the file of this name. */
static void done_entry(fuse_req_t req, int result, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry;

	if (result < 0 || entry_find(parent, name, &entry) < 0) {
		done(req, -1);
		return;
	}
	gate_leave();
	if (fuse_reply_entry(req, &entry) < 0)
		inode_put(entry.ino, 1);
}

/* Who asked owns what was made. */
static int give(fuse_req_t req, int dir, const char *name, int result)
{
	const struct fuse_ctx *who = fuse_req_ctx(req);

	return result < 0 ? result : fchownat(dir, name, who->uid, who->gid, AT_SYMLINK_NOFOLLOW);
}

static int open_again(fuse_ino_t ino, int flags)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd_of(ino));
	/* Our buffers are not aligned; the file below is one for all nodes, so that nothing is cached twice. */
	return open(path, (flags & ~(O_NOFOLLOW | O_DIRECT | O_CREAT | O_EXCL)) | O_CLOEXEC);
}

/* ---- requests by name and inode */

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	PASS(LOOK);
	done_entry(req, 0, parent, name);
}

static void do_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
	inode_put(ino, count);
	fuse_reply_none(req);
}

static void reply_attr(fuse_req_t req, int result, fuse_ino_t ino)
{
	struct stat stat;

	if (result < 0 || fstatat(fd_of(ino), "", &stat, AT_EMPTY_PATH) < 0) {
		done(req, -1);
		return;
	}
	gate_leave();
	fuse_reply_attr(req, &stat, 0);
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	(void)file;
	PASS(LOOK);
	reply_attr(req, 0, ino);
}

static int set_attr(fuse_ino_t ino, const struct stat *to, int what)
{
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd_of(ino));
	if ((what & FUSE_SET_ATTR_MODE) && chmod(path, to->st_mode) < 0)
		return -1;
	if ((what & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) &&
		fchownat(fd_of(ino), "", what & FUSE_SET_ATTR_UID ? to->st_uid : (uid_t)-1,
			what & FUSE_SET_ATTR_GID ? to->st_gid : (gid_t)-1, AT_EMPTY_PATH) < 0)
		return -1;
	if ((what & FUSE_SET_ATTR_SIZE) && truncate(path, to->st_size) < 0)
		return -1;
	if (what & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW))
		times[0] = what & FUSE_SET_ATTR_ATIME_NOW ? (struct timespec){.tv_nsec = UTIME_NOW} : to->st_atim;
	if (what & (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW))
		times[1] = what & FUSE_SET_ATTR_MTIME_NOW ? (struct timespec){.tv_nsec = UTIME_NOW} : to->st_mtim;
	if (times[0].tv_nsec != UTIME_OMIT || times[1].tv_nsec != UTIME_OMIT)
		return utimensat(AT_FDCWD, path, times, 0);
	return 0;
}

static void do_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *to, int what, struct fuse_file_info *file)
{
	(void)file;
	PASS(CHANGE);
	reply_attr(req, set_attr(ino, to, what), ino);
}

static void do_readlink(fuse_req_t req, fuse_ino_t ino)
{
	char target[4097];

	PASS(LOOK);
	ssize_t n = readlinkat(fd_of(ino), "", target, sizeof(target) - 1);
	if (n < 0) {
		done(req, -1);
		return;
	}
	target[n] = 0;
	gate_leave();
	fuse_reply_readlink(req, target);
}

static void do_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	PASS(GROW);
	done_entry(req, give(req, fd_of(parent), name, mkdirat(fd_of(parent), name, mode)), parent, name);
}

static void do_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t dev)
{
	PASS(GROW);
	done_entry(req, give(req, fd_of(parent), name, mknodat(fd_of(parent), name, mode, dev)), parent, name);
}

static void do_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	PASS(GROW);
	done_entry(req, give(req, fd_of(parent), name, symlinkat(target, fd_of(parent), name)), parent, name);
}

static void do_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	char path[32];

	PASS(GROW);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd_of(ino));
	done_entry(req, linkat(AT_FDCWD, path, fd_of(parent), name, AT_SYMLINK_FOLLOW), parent, name);
}

static void do_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	PASS(CHANGE);
	done(req, unlinkat(fd_of(parent), name, 0));
}

static void do_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	PASS(CHANGE);
	done(req, unlinkat(fd_of(parent), name, AT_REMOVEDIR));
}

static void do_rename(
	fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t to, const char *to_name, unsigned flags)
{
	PASS(CHANGE);
	done(req, renameat2(fd_of(parent), name, fd_of(to), to_name, flags));
}

static void do_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs room;

	PASS(LOOK);
	if (fstatvfs(fd_of(ino), &room) < 0) {
		done(req, -1);
		return;
	}
	gate_leave();
	fuse_reply_statfs(req, &room);
}

/* ---- open files */

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	bool writes = (file->flags & O_ACCMODE) != O_RDONLY || (file->flags & O_TRUNC);

	PASS(writes ? CHANGE : LOOK);
	int fd = open_again(ino, file->flags);
	if (fd < 0) {
		done(req, -1);
		return;
	}
	file->fh = (uint64_t)fd;
	gate_leave();
	if (fuse_reply_open(req, file) < 0)
		close(fd);
}

static void do_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *file)
{
	struct fuse_entry_param entry;
	int flags = (file->flags & ~O_DIRECT) | O_CREAT | O_NOFOLLOW | O_CLOEXEC;

	PASS(GROW);
	bool is_new = faccessat(fd_of(parent), name, F_OK, AT_SYMLINK_NOFOLLOW) < 0;
	int fd = openat(fd_of(parent), name, flags, mode);
	if (fd < 0 || (is_new && give(req, fd_of(parent), name, 0) < 0) || entry_find(parent, name, &entry) < 0) {
		done(req, -1);
		if (fd >= 0)
			close(fd);
		return;
	}
	file->fh = (uint64_t)fd;
	gate_leave();
	if (fuse_reply_create(req, &entry, file) < 0) {
		close(fd);
		inode_put(entry.ino, 1);
	}
}

static void do_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	(void)ino;
	close((int)file->fh);
	fuse_reply_err(req, 0);
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *file)
{
	struct fuse_bufvec data = FUSE_BUFVEC_INIT(size);

	(void)ino;
	PASS(LOOK);
	data.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
	data.buf[0].fd = (int)file->fh;
	data.buf[0].pos = offset;
	fuse_reply_data(req, &data, FUSE_BUF_SPLICE_MOVE);
	gate_leave();
}

static void do_write(
	fuse_req_t req, fuse_ino_t ino, struct fuse_bufvec *from, off_t offset, struct fuse_file_info *file)
{
	struct fuse_bufvec to = FUSE_BUFVEC_INIT(fuse_buf_size(from));

	(void)ino;
	PASS(GROW);
	to.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
	to.buf[0].fd = (int)file->fh;
	to.buf[0].pos = offset;
	ssize_t n = fuse_buf_copy(&to, from, 0);
	gate_leave();
	if (n < 0)
		fuse_reply_err(req, (int)-n);
	else
		fuse_reply_write(req, (size_t)n);
}

static void do_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *file)
{
	(void)ino;
	PASS(CHANGE);
	done(req, data_only ? fdatasync((int)file->fh) : fsync((int)file->fh));
}

static void do_fallocate(
	fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length, struct fuse_file_info *file)
{
	(void)ino;
	PASS(mode & FALLOC_FL_PUNCH_HOLE ? CHANGE : GROW);
	done(req, fallocate((int)file->fh, mode, offset, length));
}

static void do_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *file)
{
	(void)ino;
	PASS(LOOK);
	off_t at = lseek((int)file->fh, offset, whence);
	if (at < 0) {
		done(req, -1);
		return;
	}
	gate_leave();
	fuse_reply_lseek(req, at);
}

/* ---- locks: not counted as under way, they may wait for each other */

static int pass_only(fuse_req_t req, enum need need)
{
	int refused = gate_enter(need, is_ended, req);

	if (!refused)
		gate_leave();
	return refused;
}

static void do_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file, struct flock *lock)
{
	int refused = pass_only(req, LOOK);

	(void)ino;
	lock->l_pid = 0;
	if (!refused && fcntl((int)file->fh, F_OFD_GETLK, lock) < 0)
		refused = errno;
	lock->l_pid = 0; /* of another node: no process here */
	if (refused)
		fuse_reply_err(req, refused);
	else
		fuse_reply_lock(req, lock);
}

static void do_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file, struct flock *lock, int wait)
{
	int refused = pass_only(req, LOOK);

	(void)ino;
	lock->l_pid = 0;
	if (!refused && fcntl((int)file->fh, wait ? F_OFD_SETLKW : F_OFD_SETLK, lock) < 0)
		refused = errno;
	fuse_reply_err(req, refused);
}

static void do_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file, int how)
{
	int refused = pass_only(req, LOOK);

	(void)ino;
	if (!refused && flock((int)file->fh, how) < 0)
		refused = errno;
	fuse_reply_err(req, refused);
}

/* ---- directories */

static DIR *dir_of(const struct fuse_file_info *file)
{
	return (DIR *)(uintptr_t)file->fh;
}

static void do_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	PASS(LOOK);
	int fd = open_again(ino, O_RDONLY | O_DIRECTORY);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		done(req, -1);
		return;
	}
	file->fh = (uintptr_t)dir;
	gate_leave();
	if (fuse_reply_open(req, file) < 0)
		closedir(dir);
}

static void do_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *file)
{
	DIR *dir = dir_of(file);
	char *buffer = malloc(size);
	size_t used = 0, more;

	(void)ino;
	int refused = buffer ? gate_enter(LOOK, is_ended, req) : ENOMEM;
	if (refused) {
		free(buffer);
		fuse_reply_err(req, refused);
		return;
	}
	seekdir(dir, (long)offset);
	for (struct dirent *found; (found = readdir(dir)); used += more) {
		struct stat stat = {.st_ino = found->d_ino, .st_mode = (mode_t)found->d_type << 12};
		more = fuse_add_direntry(req, buffer + used, size - used, found->d_name, &stat, found->d_off);
		if (more > size - used)
			break;
	}
	gate_leave();
	fuse_reply_buf(req, buffer, used);
	free(buffer);
}

static void do_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	(void)ino;
	closedir(dir_of(file));
	fuse_reply_err(req, 0);
}

static void do_fsyncdir(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *file)
{
	(void)ino, (void)data_only;
	PASS(CHANGE);
	done(req, fsync(dirfd(dir_of(file))));
}

/* No flush: closing needs nothing, and must not wait. */
static const struct fuse_lowlevel_ops operations = {
	.lookup = do_lookup,
	.forget = do_forget,
	.getattr = do_getattr,
	.setattr = do_setattr,
	.readlink = do_readlink,
	.mkdir = do_mkdir,
	.mknod = do_mknod,
	.symlink = do_symlink,
	.link = do_link,
	.unlink = do_unlink,
	.rmdir = do_rmdir,
	.rename = do_rename,
	.statfs = do_statfs,
	.open = do_open,
	.create = do_create,
	.release = do_release,
	.read = do_read,
	.write_buf = do_write,
	.fsync = do_fsync,
	.fallocate = do_fallocate,
	.lseek = do_lseek,
	.getlk = do_getlk,
	.setlk = do_setlk,
	.flock = do_flock,
	.opendir = do_opendir,
	.readdir = do_readdir,
	.releasedir = do_releasedir,
	.fsyncdir = do_fsyncdir,
};

/* ---- verbs */

static int socket_at(const char *path, bool serve)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (serve)
		unlink(path);
	if (fd < 0 || (serve ? bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 8)
			     : connect(fd, (struct sockaddr *)&address, sizeof(address))) != 0) {
		fprintf(stderr, "storagefs: %s: %s\n", path, strerror(errno));
		return -1;
	}
	return fd;
}

static int tell(const char *path, const char *mode)
{
	char text[64] = "";
	int fd = socket_at(path, false);

	if (fd < 0 || send(fd, mode, strlen(mode) + 1, 0) < 0 || recv(fd, text, sizeof(text) - 1, 0) <= 0)
		return 1;
	fputs(text, stdout);
	return strcmp(text, "no\n") == 0;
}

static int serve(char *program, const char *dir, const char *place, const char *socket_path)
{
	char *words[] = {program, "-oallow_other,default_permissions,fsname=storagefs,subtype=storagefs", NULL};
	struct fuse_args args = FUSE_ARGS_INIT(2, words);
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	pthread_t orders;
	struct stat stat;

	umask(0); /* the kernel has applied the caller's */
	root.fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root.fd < 0 || fstat(root.fd, &stat) < 0) {
		fprintf(stderr, "storagefs: %s: %s\n", dir, strerror(errno));
		return 1;
	}
	root.dev = stat.st_dev, root.ino = stat.st_ino;
	int listener = socket_at(socket_path, true);
	struct fuse_session *session =
		listener < 0 ? NULL : fuse_session_new(&args, &operations, sizeof(operations), NULL);
	if (!session || !config || fuse_session_mount(session, place) != 0)
		return 1;
	fuse_loop_cfg_set_max_threads(config, 64);
	fuse_loop_cfg_set_clone_fd(config, 1);
	if (pthread_create(&orders, NULL, gate_take_orders, &listener))
		return 1;
	return fuse_session_loop_mt(session, config) != 0;
}

int main(int argc, char **argv)
{
	if (argc == 5 && !strcmp(argv[1], "mount"))
		return serve(argv[0], argv[2], argv[3], argv[4]);
	if ((argc == 3 || argc == 4) && !strcmp(argv[1], "tell"))
		return tell(argv[2], argc == 4 ? argv[3] : "");
	fprintf(stderr, "usage: storagefs mount DIR PLACE SOCKET | storagefs tell SOCKET "
			"[ok|readonly|error|hang|stuck|full|slow:MS]\n");
	return 64;
}
