# SPDX-License-Identifier: Apache-2.0
"""The group driver (src/driver/corosync) on a real corosync: views, order, and what happens when corosync does not."""
import json
import subprocess
import threading
import time

import pytest

from lab import wait_until


class Shell:
    """A group-shell in a node; everything that it prints, parsed, in .lines."""

    def __init__(self, lab, node, *args):
        self.id, self.lines = int(node[1:]), []
        self.process = lab.popen("exec", node, "--", "/run/lab/build/test/group-shell", *args,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def say(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def end(self):
        if self.process.poll() is None:
            try:
                self.say("quit")
                self.process.wait(10)
            except (OSError, subprocess.TimeoutExpired):
                self.process.kill()
                self.process.wait()
        self.reader.join(10)

    def views(self, since=0):
        return [line["view"] for line in self.lines[since:] if "view" in line]

    def view(self):
        views = self.views()
        return views[-1] if views else None

    def wait_view(self, members, quorate, timeout=30):
        def there():
            view = self.view()
            return view and view["members"] == members and view["quorate"] == quorate
        wait_until(there, timeout, f"node {self.id} to be in a view of {members}, quorate {quorate}; is in {self.view()}",
                   every=0.01)

    def wait_line(self, key, since=0, timeout=30):
        wait_until(lambda: any(key in line for line in self.lines[since:]), timeout, f"node {self.id} to say {key}")
        return next(line[key] for line in self.lines[since:] if key in line)

    def texts(self):
        return [(line["from"], line["text"]) for line in self.lines if "from" in line]


@pytest.fixture
def shells(bare_lab):
    """One shell a node, all in one view."""
    bare_lab.up()
    for node in bare_lab.nodes:
        bare_lab.wait_members(node, 3)
    started = [Shell(bare_lab, node) for node in bare_lab.nodes]
    try:
        for shell in started:
            shell.wait_view([1, 2, 3], True)
        yield started
    finally:
        for shell in started:
            shell.end()


def test_all_members_deliver_the_same_order(shells):
    """The log is this order: two members that disagree on it would disagree on who runs a guest."""
    count = 10000
    for shell in shells:
        shell.say(f"flood {count}")
    for shell in shells:
        wait_until(lambda s=shell: len(s.texts()) >= 3 * count, 120, f"node {shell.id} to deliver {3 * count}")
    first = shells[0].texts()
    for sender in (1, 2, 3):
        assert [text for node, text in first if node == sender] == [f"{sender}.{i}" for i in range(count)]
    assert first == shells[1].texts() == shells[2].texts()
    # The senders were at it at the same time, else the order proves little.
    assert len({node for node, _ in first[:3 * count // 2]}) > 1


def test_a_restarted_daemon_makes_a_new_view_in_the_same_ring(bare_lab, shells):
    one, two, three = shells
    ring, since = one.view()["ring"], len(one.lines)
    two.process.kill()
    one.wait_view([1, 3], True)
    two.end()
    again = Shell(bare_lab, "n2")
    try:
        for shell in (one, again, three):
            shell.wait_view([1, 2, 3], True)
        assert {view["ring"] for view in one.views(since)} == {ring}
        again.say("send back")
        wait_until(lambda: (2, "back") in one.texts(), 10, "n1 to hear from n2")
    finally:
        again.end()


def test_one_daemon_alone_is_not_quorate_by_others_corosync(shells):
    """corosync has three votes, but only one history is there: what it commits alone would die with it."""
    one, two, three = shells
    two.say("leave")
    one.wait_view([1, 3], True)
    three.say("leave")
    one.wait_view([1], False)
    two.say("join")
    one.wait_view([1, 2], True)
    two.wait_view([1, 2], True)


def test_power_off_leaves_a_quorate_view_of_the_rest(bare_lab, shells):
    one, two, three = shells
    bare_lab.power_off("n3")
    for shell in (one, two):
        shell.wait_view([1, 2], True)
    two.say("send on")
    wait_until(lambda: (2, "on") in one.texts(), 10, "n1 to hear from n2")


def test_a_node_that_is_cut_off_is_never_quorate(bare_lab, shells):
    """At no time, not even for the moment between the process group's news and the quorum service's."""
    one, two, three = shells
    since = len(three.lines)
    bare_lab.cut("n3", "cluster")
    for shell in (one, two):
        shell.wait_view([1, 2], True)
    three.wait_view([3], False)
    assert not [view for view in three.views(since) if view["quorate"]]
    bare_lab.heal("n3", "cluster")
    for shell in shells:
        shell.wait_view([1, 2, 3], True)


def test_a_dead_corosync_is_told_and_found_again(bare_lab, shells):
    one, two, three = shells
    since = len(three.lines)
    bare_lab.kill_daemon("n3", "corosync")
    text = three.wait_line("down", since, timeout=5)
    assert "corosync" in text
    assert three.view()["quorate"] is False
    one.wait_view([1, 2], True)
    three.say("send lost")
    assert "not in the group" in three.wait_line("error", since)
    bare_lab.restart_daemon("n3", "corosync")
    for shell in shells:
        shell.wait_view([1, 2, 3], True)
    three.say("send found")
    wait_until(lambda: (3, "found") in one.texts(), 10, "n1 to hear from n3")
    assert (3, "lost") not in one.texts()


def test_a_stopped_corosync_is_told_while_the_loop_goes_on(bare_lab, shells):
    """corosync's calls wait without a limit; the daemon must not."""
    one, two, three = shells
    since = len(three.lines)
    bare_lab.sh("n3", "kill -STOP $(pgrep -x corosync)")
    started = time.monotonic()
    text = three.wait_line("down", since, timeout=12)
    assert "does not answer" in text
    assert time.monotonic() - started < 9
    three.say("counters")
    assert three.wait_line("counters", since, timeout=2)["downs"] == 0  # the thread still hangs, the loop does not
    bare_lab.sh("n3", "kill -CONT $(pgrep -x corosync)")
    for shell in shells:
        shell.wait_view([1, 2, 3], True)
    three.say("send found")
    wait_until(lambda: (3, "found") in one.texts(), 10, "n1 to hear from n3")


def test_messages_of_another_cluster_are_not_heard(bare_lab, shells):
    """Two clusters on one corosync: the group's name has the cluster's uuid."""
    one, two, three = shells
    other = Shell(bare_lab, "n2", "00000000-0000-4000-8000-000000000002")
    try:
        wait_until(lambda: other.view() is not None, 20, "a view of the other cluster")
        assert other.view()["members"] == [2] and not other.view()["quorate"]
        other.say("send strange")
        two.say("send own")
        wait_until(lambda: (2, "own") in one.texts(), 10, "n1 to hear from n2")
        wait_until(lambda: (2, "strange") in other.texts(), 10, "the other to hear itself")
        assert (2, "strange") not in one.texts()
        assert one.view()["members"] == [1, 2, 3]
    finally:
        other.end()


@pytest.mark.parametrize("change, word", [
    ("s/crypto_cipher: aes256/crypto_cipher: none/;s/crypto_hash: sha256/crypto_hash: none/", "crypto_cipher: aes256"),
    ("/crypto_/d", "crypto_cipher: aes256"),
    ("s/name: n3/xname: n3/", "no name"),
])
def test_an_unfit_configuration_is_refused_with_the_line_to_change(bare_lab, shells, change, word):
    for shell in shells:
        shell.end()
    # Only n3 gets it, and comes up alone: that is enough to be refused.
    bare_lab.sh("n3", f"sed -i '{change}' /etc/corosync/corosync.conf")
    bare_lab.restart_daemon("n3", "corosync")
    refused = Shell(bare_lab, "n3")
    try:
        text = refused.wait_line("refused", timeout=10)
        assert word in text
        assert "corosync.conf" in text
    finally:
        refused.end()
        bare_lab.power_off("n3")  # its files are written anew when it comes back
        bare_lab.power_on("n3")


def test_without_corosync_the_start_is_refused(bare_lab, shells):
    for shell in shells:
        shell.end()
    bare_lab.kill_daemon("n2", "corosync")
    refused = Shell(bare_lab, "n2")
    try:
        assert "is it running" in refused.wait_line("refused", timeout=10)
    finally:
        refused.end()
