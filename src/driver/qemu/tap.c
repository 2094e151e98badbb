/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/qemu/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static void set_name(struct ifreq *request, const char *name)
{
	memset(request, 0, sizeof(*request));
	snprintf(request->ifr_name, sizeof(request->ifr_name), "%s", name);
}

/* Asked of the network namespace itself: /sys may be another one's (a node of the lab). */
static bool is_bridge(int sock, const char *name)
{
	struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
	struct ifreq request;

	set_name(&request, name);
	request.ifr_data = (char *)&info;
	return !ioctl(sock, SIOCETHTOOL, &request) && !strcmp(info.driver, "bridge");
}

int tap_check_bridge(const char *bridge, struct err *err)
{
	CLEANUP_FD int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (sock < 0)
		return err_errno(err, errno, "socket");
	if (!is_bridge(sock, bridge))
		return err_set(err, ERR_UNFIT, "this node has no bridge '%s': make one, or edit the VM's network", bridge);
	return 0;
}

/* As large as the bridge's, or large frames of other ports would be lost. */
static void copy_mtu(int sock, const char *tap, const char *bridge)
{
	struct ifreq request;
	int mtu;

	set_name(&request, bridge);
	if (ioctl(sock, SIOCGIFMTU, &request) < 0)
		return;
	mtu = request.ifr_mtu;
	set_name(&request, tap);
	request.ifr_mtu = mtu;
	ioctl(sock, SIOCSIFMTU, &request);
}

/* The host takes no part in the guest's network: no IPv6 address of its own on the tap. */
static void no_ipv6(const char *tap)
{
	char path[80];

	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", tap);
	CLEANUP_FD int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && write(fd, "1", 1) < 0)
		return; /* a host without IPv6: nothing to turn off */
}

/* A bridge takes the lowest MAC of its ports as its own; fe:… keeps it from changing with each VM (as libvirt does). */
static int raise_mac(int sock, const char *tap, struct err *err)
{
	struct ifreq request;

	set_name(&request, tap);
	if (ioctl(sock, SIOCGIFHWADDR, &request) < 0)
		return err_errno(err, errno, "tap %s", tap);
	request.ifr_hwaddr.sa_data[0] = (char)0xfe;
	if (ioctl(sock, SIOCSIFHWADDR, &request) < 0)
		return err_errno(err, errno, "address of tap %s", tap);
	return 0;
}

static int attach(const char *tap, const char *bridge, struct err *err)
{
	CLEANUP_FD int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request;

	if (sock < 0)
		return err_errno(err, errno, "socket");
	if (raise_mac(sock, tap, err) < 0)
		return -1;
	copy_mtu(sock, tap, bridge);
	no_ipv6(tap);
	set_name(&request, bridge);
	request.ifr_ifindex = (int)if_nametoindex(tap);
	if (ioctl(sock, SIOCBRADDIF, &request) < 0)
		return err_errno(err, errno, "putting tap %s on bridge '%s'", tap, bridge);
	set_name(&request, tap);
	if (ioctl(sock, SIOCGIFFLAGS, &request) < 0)
		return err_errno(err, errno, "tap %s", tap);
	request.ifr_flags = (short)(request.ifr_flags | IFF_UP);
	if (ioctl(sock, SIOCSIFFLAGS, &request) < 0)
		return err_errno(err, errno, "tap %s up", tap);
	return 0;
}

int tap_open(const char *bridge, bool vnet_hdr, struct err *err)
{
	struct ifreq request;

	if (tap_check_bridge(bridge, err) < 0)
		return -1;
	CLEANUP_FD int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return err_errno(err, errno, "'/dev/net/tun' (module tun)");
	set_name(&request, "wtap%d");
	request.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | (vnet_hdr ? IFF_VNET_HDR : 0));
	if (ioctl(fd, TUNSETIFF, &request) < 0)
		return err_errno(err, errno, "making a tap device");
	char tap[IFNAMSIZ];
	memcpy(tap, request.ifr_name, sizeof(tap));
	if (attach(tap, bridge, err) < 0)
		return -1;
	return STEAL_FD(fd);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct bridge *)a)->name, ((const struct bridge *)b)->name);
}

void tap_bridges(struct node_facts *facts)
{
	CLEANUP_FD int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct if_nameindex *all = if_nameindex();

	facts->bridge_count = 0;
	for (const struct if_nameindex *at = all; at && at->if_index && facts->bridge_count < NODE_BRIDGES_MAX; at++)
		if (is_bridge(sock, at->if_name))
			snprintf(facts->bridges[facts->bridge_count++].name, BRIDGE_BYTES, "%s", at->if_name);
	if (all)
		if_freenameindex(all);
	qsort(facts->bridges, facts->bridge_count, sizeof(facts->bridges[0]), by_name);
}
