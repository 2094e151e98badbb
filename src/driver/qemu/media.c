/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/qemu/media.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <linux/fs.h>

enum {
	BOOT_FILE_MAX = 1 << 30,
	QCOW2_HEADER_BYTES = 104,
	/* QEMU's image locks (block/file-posix.c): it holds byte 100 + n while it uses permission n; 1 is writing. */
	LOCK_PERM_BASE = 100,
	LOCK_PERM_COUNT = 100,
};

void media_init(struct media *media)
{
	memset(media, 0, sizeof(*media));
	for (int i = 0; i < VM_DISKS_MAX; i++)
		media->disks[i].fd = -1;
	media->kernel_fd = media->initrd_fd = -1;
}

void media_fini(struct media *media)
{
	for (int i = 0; i < VM_DISKS_MAX; i++)
		cleanup_fd_(&media->disks[i].fd);
	cleanup_fd_(&media->kernel_fd);
	cleanup_fd_(&media->initrd_fd);
	media_init(media);
}

static uint64_t be(const uint8_t *bytes, int count)
{
	uint64_t value = 0;

	for (int i = 0; i < count; i++)
		value = value << 8 | bytes[i];
	return value;
}

int media_check_qcow2(const uint8_t *header, size_t size, struct err *err)
{
	static const uint64_t external_data = 1 << 2; /* QEMU's docs/interop/qcow2.txt, incompatible features */

	if (size < 72 || be(header, 4) != 0x514649fb)
		return err_set(err, ERR_INVALID, "not a qcow2 image: correct the disk's format");
	uint64_t version = be(header + 4, 4);
	if (version != 2 && version != 3)
		return err_set(err, ERR_INVALID, "qcow2 version %llu is not known", (unsigned long long)version);
	if (be(header + 8, 8))
		return err_set(err, ERR_UNFIT,
			"the image rests on another one (backing file): flatten it with 'qemu-img convert'");
	if (version == 3 && (size < QCOW2_HEADER_BYTES || be(header + 72, 8) & external_data))
		return err_set(err, ERR_UNFIT,
			"the image keeps its data in another file: convert it with 'qemu-img convert'");
	return 0;
}

static int open_disk(const struct vm_disk *disk, struct media_disk *media, struct err *err)
{
	int flags = (disk->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	struct stat stat;

	media->fd = open(disk->path, flags | O_DIRECT);
	media->direct = media->fd >= 0;
	if (media->fd < 0 && errno == EINVAL)
		media->fd = open(disk->path, flags);
	if (media->fd < 0 && errno == EISDIR)
		return err_set(err, ERR_INVALID, "it is a directory: give the image file");
	if (media->fd < 0 && errno == ENOENT)
		return err_set(err, ERR_NOT_FOUND,
			"it does not exist on this node: create it, or mount the storage that holds it");
	if (media->fd < 0)
		return err_errno(err, errno, "it cannot be opened%s", disk->read_only ? "" : " for writing");
	if (fstat(media->fd, &stat) < 0)
		return err_errno(err, errno, "it cannot be looked at");
	media->block_device = S_ISBLK(stat.st_mode);
	media->bytes = (uint64_t)stat.st_size;
	if (S_ISDIR(stat.st_mode))
		return err_set(err, ERR_INVALID, "it is a directory: give the image file");
	if (!S_ISREG(stat.st_mode) && !S_ISBLK(stat.st_mode))
		return err_set(err, ERR_INVALID, "it is neither a file nor a block device");
	if (media->block_device && ioctl(media->fd, BLKGETSIZE64, &media->bytes) < 0)
		return err_errno(err, errno, "its size cannot be read");
	/* O_NONBLOCK was for the open alone: a path that names a FIFO must not hang it. */
	fcntl(media->fd, F_SETFL, media->direct ? O_DIRECT : 0);
	if (!media->bytes)
		return err_set(err, ERR_INVALID, "it is empty: make an image with 'qemu-img create'");
	return 0;
}

static int check_format(const struct vm_disk *disk, const struct media_disk *media, struct err *err)
{
	/* O_DIRECT wants aligned memory. */
	_Alignas(4096) uint8_t header[4096];

	if (disk->format != DISK_QCOW2)
		return 0;
	ssize_t n = pread(media->fd, header, sizeof(header), 0);
	if (n < 0)
		return err_errno(err, errno, "its header cannot be read");
	return media_check_qcow2(header, (size_t)n, err);
}

/* QEMU would find this too, but could only say so after it was started. */
static int check_unlocked(const struct vm_disk *disk, const struct media_disk *media, struct err *err)
{
	/* A write lock: any permission that another process uses is in its way. */
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_PERM_BASE, .l_len = LOCK_PERM_COUNT};

	if (disk->read_only)
		return 0;
	if (!fcntl(media->fd, F_OFD_GETLK, &lock) && lock.l_type != F_UNLCK)
		return err_set(err, ERR_BUSY, "another process has the image open (QEMU's image lock): end it first");
	return 0;
}

/* A copy in memory: QEMU's user needs no right on the file, and a later change of the file does not reach the guest. */
static int copy_to_memory(const char *path, int *fd, struct err *err)
{
	struct stat stat;

	CLEANUP_FD int from = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (from < 0)
		return err_errno(err, errno, "'%s' cannot be opened on this node", path);
	if (fstat(from, &stat) < 0)
		return err_errno(err, errno, "'%s'", path);
	if (!S_ISREG(stat.st_mode) || !stat.st_size || stat.st_size > BOOT_FILE_MAX)
		return err_set(err, ERR_INVALID, "'%s' must be a file of 1 byte to %d MiB", path, BOOT_FILE_MAX >> 20);
	CLEANUP_FD int to = memfd_create("boot", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (to < 0)
		return err_errno(err, errno, "memory for '%s'", path);
	for (off_t left = stat.st_size; left > 0;) {
		ssize_t n = sendfile(to, from, NULL, (size_t)left);
		if (n < 0)
			return err_errno(err, errno, "reading '%s'", path);
		if (!n)
			return err_set(err, ERR_IO, "'%s' became shorter while it was read", path);
		left -= n;
	}
	if (fcntl(to, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return err_errno(err, errno, "sealing the copy of '%s'", path);
	*fd = STEAL_FD(to);
	return 0;
}

int media_open(const struct vm_def *def, bool running_elsewhere, struct media *media, struct err *err)
{
	for (uint32_t i = 0; i < def->disk_count; i++) {
		const struct vm_disk *disk = &def->disks[i];
		struct media_disk *opened = &media->disks[i];
		if (disk->kind != DISK_SHARED)
			return err_set(err, ERR_UNFIT, "disk %s: kind '%s' is not supported by this version", disk->id,
				disk_kind_name((int)disk->kind));
		if (open_disk(disk, opened, err) < 0 || check_format(disk, opened, err) < 0 ||
			(!running_elsewhere && check_unlocked(disk, opened, err) < 0))
			return err_prefix(err, "disk %s, '%s'", disk->id, disk->path);
	}
	if (def->kernel[0] && copy_to_memory(def->kernel, &media->kernel_fd, err) < 0)
		return err_prefix(err, "kernel");
	if (def->initrd[0] && copy_to_memory(def->initrd, &media->initrd_fd, err) < 0)
		return err_prefix(err, "initrd");
	return 0;
}
