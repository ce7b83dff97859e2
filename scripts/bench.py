# SPDX-License-Identifier: Apache-2.0
"""The measurements of scripts/bench, which prepares what they need.

Every comparison is made of pairs, one after the other and in turns, so that what else the machine does hits both alike;
the median of the pairs' ratios decides.
"""

import contextlib
import ctypes
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

MIGRATE = os.environ["MIGRATE_BIN"]
WORKLOAD = os.environ["WORKLOAD_BIN"]
CRIU = os.environ["CRIU"]
# The words that start crun, or none: it comes with libraries of its own.
CRUN = os.environ.get("CRUN", "").split()
# The newest runc that is here.
RUNC = os.environ["RUNC"]
UNIFIED = Path("/sys/fs/cgroup/unified")
PAIRS = max(9, int(os.environ.get("PAIRS", "11")))
WARM_UP = 2
LIMIT = 120  # seconds for any one command
PR_SET_CHILD_SUBREAPER = 36

missed = []


def returned(command, **options):
    """Runs a command and returns its code as soon as it has ended: a `timeout` of subprocess looks only every 50 ms."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **options) as process:
        limit = threading.Timer(LIMIT, process.kill)
        limit.start()
        try:
            return process.wait()
        finally:
            limit.cancel()


def call(*command, env=None):
    """Runs a command with /dev/null for a terminal; its error output goes to ours if it fails."""
    with tempfile.TemporaryFile() as errors:
        code = returned(command, stderr=errors, env=env)
        if code != 0:
            errors.seek(0)
            sys.stderr.write(errors.read().decode(errors="replace"))
            raise SystemExit(f"error: {' '.join(map(str, command))} ended with {code}")


def call_detached(*command, env=None):
    """The same for a command that leaves a container behind, which must not keep a file of ours open."""
    if returned(command, stderr=subprocess.DEVNULL, env=env) != 0:
        raise SystemExit(f"error: {' '.join(map(str, command))} failed")


def seconds(action, *arguments, **options):
    began = time.perf_counter()
    action(*arguments, **options)
    return time.perf_counter() - began


def reap():
    """Collects the first processes of containers that have ended: they are orphans, and ours."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    except ChildProcessError:
        pass


def peak_of(command, env):
    """Peak resident memory in MiB of a command and of the children that it has waited for.

    A process counts the peak of the program that it was before: so it is not this one that starts it, but a small one.
    """
    with tempfile.NamedTemporaryFile("r") as report:
        code = returned(["/usr/bin/time", "--quiet", "--format=%M", f"--output={report.name}", *command], stderr=subprocess.DEVNULL, env=env)
        if code != 0:
            raise SystemExit(f"error: {' '.join(command)} ended with {code}")
        return int(report.read()) / 1024


def verdict(what, value, goal, unit=""):
    good = value <= goal
    if not good:
        missed.append(what)
    print(f"{'ok  ' if good else 'MISS'}  {what}: {value:.2f}{unit} (goal: at most {goal:g}{unit})", flush=True)


def interleaved(ours, theirs, pairs, warm_up=WARM_UP):
    """The pairs of what both return, as tuples: `ours` first, whichever came first."""
    measured = []
    for number in range(warm_up + pairs):
        order = (ours, theirs) if number % 2 == 0 else (theirs, ours)
        taken = {f: f(number) for f in order}
        if number >= warm_up:
            measured.append([v if isinstance(v, tuple) else (v,) for v in (taken[ours], taken[theirs])])
    return measured


def compare(what, goal, ours, theirs, their_name, pairs=PAIRS, units=None):
    """`ours` and `theirs` take a running number and return seconds, or a tuple of them if `what` and `goal` are tuples.

    What has None for a goal is only told. `units` are of the thousandth part of what is measured.
    """
    names, goals = (what, goal) if isinstance(what, tuple) else ((what,), (goal,))
    units = units or ("ms",) * len(names)
    measured = interleaved(ours, theirs, pairs)
    for index, (name, limit) in enumerate(zip(names, goals)):
        mine = [pair[0][index] for pair in measured]
        other = [pair[1][index] for pair in measured]
        ratio = statistics.median(a / b for a, b in zip(mine, other))
        if limit is None:
            print(f"      {name}: {ratio:.2f}", flush=True)
        else:
            verdict(name, ratio, limit)
        print(f"      median of {pairs}: migrate {statistics.median(mine) * 1000:.1f} {units[index]},"
              f" {their_name} {statistics.median(other) * 1000:.1f} {units[index]}", flush=True)


class Runtime:
    """runc, crun, or migrate, which take the same commands."""

    def __init__(self, name, program, scratch):
        self.name = name
        self.root = scratch / "states" / name
        self.command = [*program, "--root", str(self.root)]
        # runc finds CRIU by its name alone.
        shims = scratch / "criu"
        if not shims.exists():
            shims.mkdir()
            (shims / "criu").symlink_to(CRIU)
        self.env = dict(os.environ, PATH=f"{shims}:{os.environ['PATH']}")

    def __call__(self, *arguments):
        call(*self.command, *arguments, env=self.env)

    def detached(self, *arguments):
        call_detached(*self.command, *arguments, env=self.env)

    def sweep(self):
        """Deletes whatever is left of our containers."""
        if not self.root.exists():
            return
        names = subprocess.run([*self.command, "list", "-q"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT)
        for name in names.stdout.split():
            subprocess.run([*self.command, "delete", "--force", name], stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT)
        reap()


def copy_program(program, rootfs, name):
    """The program, and the libraries that it names, in a root filesystem."""
    function = 'set -euo pipefail; . "$1"; copy_program "$2" "$3" "$4"'
    call("bash", "-c", function, "bash", str(Path(__file__).parent / "environment.sh"), program, str(rootfs), name)


def bundle(where, program, name, arguments):
    """A bundle with runc's default configuration, without a terminal."""
    rootfs = where / "rootfs"
    rootfs.mkdir(parents=True)
    copy_program(program, rootfs, name)
    call("runc", "spec", "--bundle", str(where))
    config = json.loads((where / "config.json").read_text())
    config["process"]["terminal"] = False
    config["process"]["args"] = arguments
    config["root"]["readonly"] = False
    (where / "config.json").write_text(json.dumps(config))
    return str(where)


def bench_run(scratch, ours, theirs):
    true = bundle(scratch / "true", shutil.which("busybox"), "bin/true", ["/bin/true"])

    def run(runtime):
        return lambda number: seconds(runtime, "run", "--bundle", true, f"migrate-bench-{number}")

    compare(f"run of /bin/true against {theirs.name}", {"runc": 0.3, "crun": 0.9}[theirs.name], run(ours), run(theirs), theirs.name,
            pairs=max(PAIRS, 31))


def bench_commands(scratch, ours, theirs):
    """Each command on the way of a container that is created, started, entered and deleted."""
    waiting = bundle(scratch / "waiting", shutil.which("busybox"), "bin/busybox", ["/bin/busybox", "sleep", "100000"])

    def life(runtime):
        def measure(number):
            name = f"migrate-bench-{number}"
            taken = (seconds(runtime.detached, "create", "--bundle", waiting, name), seconds(runtime, "start", name),
                     seconds(runtime, "exec", name, "/bin/busybox", "true"), seconds(runtime, "state", name),
                     seconds(runtime, "delete", "--force", name))
            reap()
            return taken
        return measure

    names = tuple(f"{command} against {theirs.name}" for command in ("create", "start", "exec", "state", "delete --force"))
    compare(names, (None,) * len(names), life(ours), life(theirs), theirs.name, pairs=max(PAIRS, 21))


def without_unified(section):
    """Runs a section once more where the tree of cgroup v2 beside those of v1 cannot be seen: crun would put containers into its top."""
    if not CRUN:
        print("      crun is not here: nothing is compared with it", flush=True)
        return
    script = 'if mountpoint -q "$0"; then umount "$0"; fi; exec "$@"'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(UNIFIED), sys.executable, __file__, section]
    if subprocess.run(command, stdin=subprocess.DEVNULL, timeout=LIMIT * 10).returncode != 0:
        missed.append(section)


def bench_crun(_scratch, _ours, _theirs):
    without_unified("crun-run")
    without_unified("crun-commands")


def bench_size(scratch, ours, theirs):
    """Peak resident memory of each command against runc's, and the size of the program."""
    waiting = bundle(scratch / "waiting", shutil.which("busybox"), "bin/busybox", ["/bin/busybox", "sleep", "100000"])
    true = bundle(scratch / "true", shutil.which("busybox"), "bin/true", ["/bin/true"])
    name = "migrate-bench-size"
    commands = (("run", "--bundle", true, f"{name}-true"), ("create", "--bundle", waiting, name), ("start", name), ("state", name),
                ("list",), ("exec", name, "/bin/busybox", "true"), ("pause", name), ("resume", name), ("kill", name, "KILL"),
                ("delete", "--force", name))
    peaks = {runtime: [peak_of([*runtime.command, *command], runtime.env) for command in commands] for runtime in (ours, theirs)}
    reap()
    for command, mine, other in zip(commands, peaks[ours], peaks[theirs]):
        verdict(f"peak memory of {command[0]} against runc ({mine:.1f} and {other:.1f} MiB)", mine / other, 0.5)
    verdict("size of the program", os.stat(MIGRATE).st_size / 2**20, 10, " MiB")


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def stopped_seconds(stats):
    """How long CRIU kept the processes from running: the freezing and frozen times of its stats-dump image, which is two magic
    numbers, a length, and a message whose field 1 begins with these two, in microseconds."""
    data = stats.read_bytes()
    _, at = varint(data, 13)
    total = 0
    for tag in (0x08, 0x10):
        if data[12] != 0x0A or data[at] != tag:
            raise SystemExit(f"error: {stats} is not as CRIU writes it")
        value, at = varint(data, at + 1)
        total += value
    return total / 1e6


def wait_until(what, holds):
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        if holds():
            return
        time.sleep(0.02)
    raise SystemExit(f"error: not so in {LIMIT} s: {what}")


def counts(status):
    """Whether a workload counts there, which it does when it has all its memory."""
    return status.exists() and re.search(r"^counter=([1-9][0-9]*)$", status.read_text(), re.MULTILINE)


def there_and_back(bundle_path, images, sign=None, given=Path.exists):
    """A measurement of a checkpoint and a restore: how long both took, and how long the processes stood still.

    The container is ready when `given` finds in the file `sign` what it has written itself: a former one has left its own there.
    """
    def of(runtime):
        def measure(number):
            name = f"migrate-bench-{number}"
            where = images / runtime.name
            where.mkdir(parents=True)
            directories = ("--image-path", str(where / "images"), "--work-path", str(where / "work"))
            if sign:
                sign.unlink(missing_ok=True)
            runtime.detached("run", "--detach", "--bundle", bundle_path, name)
            if sign:
                wait_until(f"{sign} is as it should be", lambda: given(sign))
            down = seconds(runtime, "checkpoint", *directories, name)
            stopped = stopped_seconds(where / "work" / "stats-dump")
            reap()
            up = seconds(runtime.detached, "restore", "--detach", "--bundle", bundle_path, *directories, name)
            runtime("delete", "--force", name)
            reap()
            shutil.rmtree(where)
            return down, up, stopped
        return measure
    return of


def compare_checkpoints(what, goals, measure, ours, theirs, pairs=PAIRS):
    compare((f"checkpoint of {what} against runc", f"restore of {what} against runc",
             f"time in which {what} stands still for the checkpoint"), goals,
            measure(ours), measure(theirs), theirs.name, pairs)


def counting(where, mebibytes):
    """A bundle of a workload that holds so much memory, and the file in which it counts."""
    arguments = ["/workload", "counter", "--status", "/status", "--memory", str(mebibytes << 20)]
    return bundle(where, WORKLOAD, "workload", arguments), where / "rootfs" / "status"


def bench_checkpoint(scratch, ours, theirs):
    images = scratch / "images"
    small = bundle(scratch / "small", shutil.which("busybox"), "bin/sleep", ["/bin/sleep", "100000"])
    compare_checkpoints("a small container", (0.5, 0.5, None), there_and_back(small, images), ours, theirs)

    script = "for i in $(seq 49); do sleep 100000 & done; touch /ready; wait"
    tree = bundle(scratch / "tree", shutil.which("busybox"), "bin/busybox", ["/bin/busybox", "sh", "-c", script])
    ready = scratch / "tree" / "rootfs" / "ready"
    compare_checkpoints("50 processes", (None, None, None), there_and_back(tree, images, ready), ours, theirs)

    large, status = counting(scratch / "large", 1024)
    config = json.loads((scratch / "large" / "config.json").read_text())
    for number in range(10):
        source = scratch / "sources" / str(number)
        source.mkdir(parents=True)
        config["mounts"].append({"destination": f"/bound/{number}", "type": "bind", "source": str(source), "options": ["rbind"]})
    (scratch / "large" / "config.json").write_text(json.dumps(config))
    compare_checkpoints("1 GiB and 10 mounts", (None, None, None), there_and_back(large, images, status, counts), ours, theirs, 7)


class BareCriu:
    """CRIU by its own command line, on containers that need nothing of a runtime's."""

    name = "criu"

    def __init__(self, runtime, rootfs):
        self.runtime, self.rootfs = runtime, rootfs

    def detached(self, command, *arguments):
        if command == "run":
            self.runtime.detached(command, *arguments)
            return
        where = self.directories(arguments)
        call_detached(CRIU, "restore", *where, "--root", str(self.rootfs), "--restore-detached", "--restore-sibling",
                      "--pidfile", str(self.rootfs.parent / "pid"), "--empty-ns", "net", "--manage-cgroups=ignore")

    def __call__(self, command, *arguments):
        name = arguments[-1]
        if command == "delete":
            pid = int((self.rootfs.parent / "pid").read_text())
            (self.rootfs.parent / "pid").unlink()
            os.kill(pid, signal.SIGKILL)
            self.runtime("delete", "--force", name)
            return
        state = subprocess.run([*self.runtime.command, "state", name], capture_output=True, text=True, check=True, timeout=LIMIT)
        where = self.directories(arguments)
        for directory in where[1::2]:
            Path(directory).mkdir()
        call(CRIU, "dump", *where, "--tree", str(json.loads(state.stdout)["pid"]), "--empty-ns", "net", "--manage-cgroups=ignore",
             "--network-lock", "skip")

    @staticmethod
    def directories(arguments):
        at = arguments.index("--image-path")
        return ["--images-dir", arguments[at + 1], "--work-dir", arguments[at + 3]]


def bench_bare(scratch, ours, _theirs):
    """Against CRIU alone, in a container without what CRIU needs a runtime for."""
    where = scratch / "bare"
    path, status = counting(where, 1024)
    config = json.loads((where / "config.json").read_text())
    config["mounts"] = [mount for mount in config["mounts"] if mount["type"] not in ("cgroup", "cgroup2")]
    config["linux"]["maskedPaths"] = []
    (where / "config.json").write_text(json.dumps(config))
    # CRIU wants its root to be a mount point.
    call("mount", "--bind", str(where / "rootfs"), str(where / "rootfs"))
    try:
        compare(("checkpoint of 1 GiB against criu alone", "restore of 1 GiB against criu alone", "time in which it stands still"),
                (None, None, None), *(there_and_back(path, scratch / "images", status, counts)(r) for r in (ours, BareCriu(ours, where / "rootfs"))),
                "criu", 7)
    finally:
        call("umount", str(where / "rootfs"))


def make_tree(top):
    """About 200 MiB in 3000 files: text-like, random and sparse of content, as a root filesystem is."""
    source = random.Random(1)
    words = [bytes(source.choices(b"etaoinshrdlu_/.;(){}0123456789", k=source.randint(2, 12))) for _ in range(4000)]
    for number in range(3000):
        directory = top / f"{number % 40:02d}" / f"{number % 7}"
        directory.mkdir(parents=True, exist_ok=True)
        content = b" ".join(source.choices(words, k=source.randint(20, 6000)))
        (directory / f"{number}").write_bytes(content)
    for number in range(8):
        block = source.randbytes(64 << 10)
        with open(top / f"large-{number}", "wb") as file:
            for part in range(128):
                file.write(block if part % 2 else source.randbytes(64 << 10))
                file.write(bytes(32 << 10))


def archive_program():
    """Builds benches/archive.rs and finds the program that cargo made of it."""
    built = subprocess.run(["cargo", "bench", "--locked", "--no-run", "--bench", "archive", "--message-format=json-render-diagnostics"],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True)
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "archive":
            return message["executable"]
    raise SystemExit("error: cargo built no program from benches/archive.rs")


def bench_archive(scratch, _ours, _theirs):
    program = archive_program()
    tree = scratch / "tree"
    make_tree(tree)

    def both(write, read):
        return write + read, write, read

    def ours(_number):
        printed = subprocess.run([program, str(tree), str(scratch)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                                 check=True, timeout=LIMIT).stdout
        found = {name: re.search(rf"\b{name}\D*([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)", printed) for name in ("write", "read")}
        if not all(found.values()):
            raise SystemExit(f"error: {program} did not print seconds for 'write' and 'read': {printed!r}")
        return both(float(found["write"][1]), float(found["read"][1]))

    def theirs(_number):
        packed, unpacked = scratch / "tree.tar.zst", scratch / "unpacked"
        unpacked.mkdir()
        write = seconds(call, "bash", "-c", 'set -o pipefail; tar -C "$1" -cf - . | zstd -q -1 >"$2"', "bash", tree, packed)
        read = seconds(call, "bash", "-c", 'set -o pipefail; zstd -q -d <"$1" | tar -C "$2" -xf -', "bash", packed, unpacked)
        shutil.rmtree(unpacked)
        packed.unlink()
        return both(write, read)

    compare(("writing and reading an archive against tar | zstd -1", "writing it", "reading it"), (1.1, None, None), ours, theirs,
            "tar and zstd")


def bench_memory(scratch, ours, _theirs):
    """Peak resident memory of `checkpoint --export`: of migrate or of its CRIU, whichever had more."""
    for mebibytes in (32, 512):
        where = scratch / f"memory-{mebibytes}"
        arguments = ["/workload", "counter", "--status", "/status", "--memory", str(mebibytes << 20)]
        bundle(where, WORKLOAD, "workload", arguments)
        with open(where / "rootfs" / "ballast", "wb") as file:
            for _ in range(mebibytes):
                file.write(os.urandom(1 << 20))
        name = f"migrate-bench-memory-{mebibytes}"
        ours.detached("run", "--detach", "--bundle", str(where), name)
        status = where / "rootfs" / "status"
        wait_until(f"the workload counts in {status}", lambda: counts(status))
        exported = where / "exported"
        peak = peak_of([*ours.command, "checkpoint", "--leave-running", "--export", str(exported), name], ours.env)
        ours("delete", "--force", name)
        reap()
        size = exported.stat().st_size >> 20
        verdict(f"peak memory of an export of {size} MiB", peak, 64, " MiB")
        shutil.rmtree(where)


class Podman:
    """Podman with a store of its own, and a runtime that it takes checkpoints with."""

    def __init__(self, scratch, runtime, env):
        conf = scratch / "containers.conf"
        conf.write_text('[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n')
        self.policy = scratch / "policy.json"
        self.policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self.env = dict(env, CONTAINERS_CONF=str(conf), TMPDIR=str(scratch))
        self.command = ["podman", "--root", str(scratch / "store"), "--runroot", str(scratch / "run"), "--tmpdir", str(scratch / "tmp"),
                        "--storage-driver", "overlay", "--runtime", runtime]

    def __call__(self, *arguments):
        call(*self.command, *arguments, env=self.env)

    @staticmethod
    def sweep():
        """Removes the control groups that Podman makes and leaves; those of others that are in use stay."""
        for parent in [*Path("/sys/fs/cgroup").glob("libpod_parent"), *Path("/sys/fs/cgroup").glob("*/libpod_parent")]:
            for directory in (*(child for child in parent.iterdir() if child.is_dir()), parent):
                with contextlib.suppress(OSError):
                    directory.rmdir()


def answered(socket_path, number, expected=None):
    """Asks the workload `server` for a page until it answers; it must be the expected one."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(LIMIT)
            try:
                client.connect(str(socket_path))
                client.sendall(struct.pack("<Q", number))
                page = b""
                while len(page) < 4096 and (more := client.recv(4096)):
                    page += more
            except OSError:
                page = b""
        if len(page) == 4096:
            if expected not in (None, page):
                raise SystemExit(f"error: page {number} is not what it was")
            return page
        time.sleep(0.001)
    raise SystemExit(f"error: {socket_path} does not answer within {LIMIT} s")


def bench_podman(scratch, ours, theirs):
    """Export and import of a server with 1 GiB, a fourth of it incompressible: how long, how large, and how long until it answers."""
    mebibytes, asked = 1024, 131072
    directory = scratch / "served"
    directory.mkdir()
    at = directory / "socket"
    arguments = ["/workload", "server", "--socket", "/served/socket", "--memory", str(mebibytes << 20)]
    path = bundle(scratch / "server", WORKLOAD, "workload", arguments)
    config = json.loads((scratch / "server" / "config.json").read_text())
    config["mounts"].append({"destination": "/served", "type": "bind", "source": str(directory), "options": ["rbind", "rw"]})
    (scratch / "server" / "config.json").write_text(json.dumps(config))
    exported = scratch / "exported"
    podman = Podman(scratch, RUNC, theirs.env)
    call("tar", "-C", str(scratch / "server" / "rootfs"), "-cf", str(scratch / "image.tar"), ".")
    podman("import", "--quiet", str(scratch / "image.tar"), "localhost/bench")

    def measured(start, export, restore, end):
        def measure(number):
            name = f"migrate-bench-{number}"
            at.unlink(missing_ok=True)
            start(name)
            page = answered(at, asked)
            down = seconds(export, name)
            size = exported.stat().st_size
            # A former one has left its name there.
            at.unlink(missing_ok=True)
            began = time.perf_counter()
            restore(name)
            answered(at, asked, page)
            up = time.perf_counter() - began
            end(name)
            reap()
            exported.unlink()
            return down, up, size / 1e9
        return measure

    mine = measured(
        lambda name: ours.detached("run", "--detach", "--bundle", path, name),
        lambda name: ours("checkpoint", "--export", str(exported), name),
        lambda name: ours.detached("restore", "--detach", "--import", str(exported), "--map-mount", f"/served={directory}", "--lazy-pages", name),
        lambda name: ours("delete", "--force", name))
    other = measured(
        lambda name: podman("run", "--detach", "--name", name, "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--volume", f"{directory}:/served", "localhost/bench", *arguments),
        lambda name: (podman("container", "checkpoint", "--compress", "zstd", "--export", str(exported), name), podman("rm", name)),
        lambda name: podman("container", "restore", "--import", str(exported)),
        lambda name: podman("rm", "--force", name))
    try:
        compare(("export of 1 GiB against Podman", "archive to the first answer against Podman", "size of the archive against Podman's"),
                (0.6, 0.3, 1.0), mine, other, "podman", int(os.environ.get("PAIRS", "5")), ("ms", "ms", "MB"))
    finally:
        subprocess.run([*podman.command, "rm", "--force", "--all"], env=podman.env, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT)
        subprocess.run([*podman.command, "rmi", "--force", "--all"], env=podman.env, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT)
        subprocess.run(["umount", "--recursive", str(scratch / "store" / "overlay")], stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT)
        podman.sweep()


def bench_inspect(scratch, ours, _theirs):
    """How long it takes to look into an archive with 4 GiB of memory."""
    name, at, exported = "migrate-bench-inspect", scratch / "server" / "rootfs" / "socket", scratch / "exported"
    path = bundle(scratch / "server", WORKLOAD, "workload", ["/workload", "server", "--socket", "/socket", "--memory", str(4 << 30)])
    ours.detached("run", "--detach", "--bundle", path, name)
    answered(at, 0)
    ours("checkpoint", "--export", str(exported), name)
    reap()
    for options in ((), ("--json", "--tree", "--files", "--sockets", "--mounts", "--memory")):
        took = statistics.median(seconds(ours, "inspect", *options, str(exported)) for _ in range(PAIRS))
        verdict(" ".join(("inspect", *options, "of an archive of 4 GiB")), took, 0.2, " s")


def stamps_in(path):
    """The times of day, in seconds, that the workload `pulse` has written there."""
    data = path.read_bytes() if path.exists() else b""
    return [stamp / 1e9 for (stamp,) in struct.iter_unpack("<Q", data[:len(data) // 8 * 8])]


class Pulse:
    """A container that writes down when it runs, moved by `migrate to` from one state root to another or by CRIU alone, on one kernel."""

    # Stamps, of a thousand a second, before and after.
    STEADY = 500

    def __init__(self, top, scratch, source, mebibytes, processes):
        self.source, self.rootfs = source, scratch / "pulse" / "rootfs"
        self.destination = Runtime("destination", [MIGRATE], top)
        arguments = ["/workload", "pulse", "--stamps", "/stamps", "--memory", str(mebibytes << 20), "--processes", str(processes)]
        self.bundle = bundle(scratch / "pulse", WORKLOAD, "workload", arguments)
        config = json.loads((scratch / "pulse" / "config.json").read_text())
        # What CRIU needs a runtime for.
        config["mounts"] = [mount for mount in config["mounts"] if mount["type"] not in ("cgroup", "cgroup2")]
        config["linux"]["maskedPaths"] = []
        # Both hosts have one tree of cgroups: the container's own name is free at the destination.
        config["linux"]["cgroupsPath"] = "/migrate-bench-live"
        (scratch / "pulse" / "config.json").write_text(json.dumps(config))
        self.socket = scratch / "receive"
        # In memory, as state roots are.
        self.images = top / "states" / "images"

    def started(self, name):
        stamps = self.rootfs / "stamps"
        stamps.unlink(missing_ok=True)
        self.source.detached("run", "--detach", "--bundle", self.bundle, name)
        wait_until(f"{name} runs", lambda: len(stamps_in(stamps)) >= self.STEADY)

    def ran_nowhere(self, stamps, began):
        """The longest time without a stamp since then."""
        wait_until(f"it writes to {stamps}", lambda: len([s for s in stamps_in(stamps) if s > began[1]]) >= self.STEADY)
        seen = [s for s in stamps_in(stamps) if s > began[0] - 0.1]
        return max(later - earlier for earlier, later in zip(seen, seen[1:]))

    def moved(self, number):
        """How long it ran nowhere, and how long the command took."""
        name = f"migrate-bench-live-{number}"
        self.started(name)
        self.socket.unlink(missing_ok=True)
        receiver = subprocess.Popen([*self.destination.command, "receive", "--listen", f"unix:{self.socket}"], stdin=subprocess.DEVNULL,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until("somebody listens", self.socket.exists)
            began = time.time()
            took = seconds(self.source, "to", f"unix:{self.socket}", name)
            there = self.destination.root / name / "bundle" / "rootfs" / "stamps"
            down = self.ran_nowhere(there, (began, time.time()))
        finally:
            receiver.kill()
            receiver.wait()
            self.destination.sweep()
        self.source.sweep()
        return down, took

    def bare(self, number):
        name = f"migrate-bench-live-{number}"
        criu = BareCriu(self.source, self.rootfs)
        directories = ("--image-path", str(self.images / "images"), "--work-path", str(self.images / "work"))
        self.images.mkdir()
        self.started(name)
        began = time.time()
        took = seconds(criu, "checkpoint", *directories, name)
        reap()
        took += seconds(criu.detached, "restore", *directories, name)
        down = self.ran_nowhere(self.rootfs / "stamps", (began, time.time()))
        criu("delete", name)
        reap()
        shutil.rmtree(self.images)
        return down, took

    def measure(self, what, goal, pairs):
        """The medians of how long it ran nowhere, ours and CRIU's."""
        call("mount", "--bind", str(self.rootfs), str(self.rootfs))
        try:
            measured = interleaved(self.moved, self.bare, pairs, warm_up=1)
        finally:
            call("umount", str(self.rootfs))
        ratios = [mine[0] / other[0] for mine, other in measured]
        medians = [[statistics.median(pair[side][index] for pair in measured) for index in (0, 1)] for side in (0, 1)]
        ratio = statistics.median(ratios)
        if goal is None:
            print(f"      {what}: {ratio:.2f}", flush=True)
        else:
            verdict(what, ratio, goal)
        print(f"      median of {pairs}: migrate {medians[0][0] * 1000:.0f} ms (the command {medians[0][1] * 1000:.0f} ms), criu {medians[1][0] * 1000:.0f} ms;"
              f" ratios from {min(ratios):.2f} to {max(ratios):.2f}", flush=True)
        return medians[0][0], medians[1][0]


def slope(points):
    """Of the line that fits these points best."""
    xs, ys = zip(*points)
    middle = statistics.mean(xs)
    return sum((x - middle) * y for x, y in points) / sum((x - middle) ** 2 for x in xs)


@contextlib.contextmanager
def large_pipes():
    """CRIU can leave memory where it is only with pipes that are larger than the kernel allows callers without privileges."""
    parameter = Path("/proc/sys/fs/pipe-max-size")
    before = parameter.read_text()
    parameter.write_text(str(max(int(before), 16 << 20)))
    try:
        yield
    finally:
        parameter.write_text(before)


def bench_live(scratch, ours, _theirs):
    """How long a container runs nowhere, by its own stamps of the time of day, while 1 % of its pages are written to each second."""
    with large_pipes():
        measure_live(scratch, ours)


def measure_live(scratch, ours):
    pairs = int(os.environ.get("PAIRS", "3"))
    lines = ([], [])
    for mebibytes in map(int, os.environ.get("LIVE_MIB", "256 1024 4096").split()):
        where = scratch / str(mebibytes)
        where.mkdir()
        downtimes = Pulse(scratch.parent, where, ours, mebibytes, 1).measure(f"downtime with {mebibytes} MiB against criu", 0.25 if mebibytes == 1024 else None, pairs)
        for line, downtime in zip(lines, downtimes):
            line.append((mebibytes / 1024, downtime))
        shutil.rmtree(where)
    if len(lines[0]) > 1:
        mine, other = map(slope, lines)
        verdict(f"its growth with memory against criu ({mine * 1000:.0f} and {other * 1000:.0f} ms a GiB)", mine / other, 0.2)
    for what, mebibytes, processes, goal in (("4 MiB", 4, 1, 1.0), ("50 processes of 4 threads", 4, 50, 0.8)):
        where = scratch / f"{mebibytes}-{processes}"
        where.mkdir()
        Pulse(scratch.parent, where, ours, mebibytes, processes).measure(f"downtime of {what} against criu", goal, pairs)
        shutil.rmtree(where)


SECTIONS = {"run": bench_run, "commands": bench_commands, "crun": bench_crun, "size": bench_size, "checkpoint": bench_checkpoint, "bare": bench_bare,
            "archive": bench_archive, "memory": bench_memory, "podman": bench_podman, "inspect": bench_inspect, "live": bench_live}
# What is not asked for by name, but by one of these.
INNER = {"crun-run": bench_run, "crun-commands": bench_commands}


def main():
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    scratch = Path(tempfile.mkdtemp(prefix="migrate-bench-", dir="/var/tmp"))
    scratch.chmod(0o755)
    # What runtimes write down is in memory, as it is under /run.
    states = scratch / "states"
    states.mkdir()
    call("mount", "-t", "tmpfs", "-o", "mode=755", "migrate-bench", str(states))
    ours, runc, crun = Runtime("migrate", [MIGRATE], scratch), Runtime("runc", ["runc"], scratch), Runtime("crun", CRUN, scratch)
    newest = Runtime("newest runc", [RUNC], scratch)
    try:
        for name in sys.argv[1:] or SECTIONS:
            where = scratch / name
            where.mkdir()
            if name in INNER:
                INNER[name](where, ours, crun)
            else:
                SECTIONS[name](where, ours, newest if name in ("checkpoint", "podman") else runc)
    finally:
        for runtime in (ours, runc, newest, *([crun] if CRUN else [])):
            runtime.sweep()
        call("umount", str(states))
        shutil.rmtree(scratch)
    if missed:
        raise SystemExit(f"{len(missed)} of the goals missed: {'; '.join(missed)}")
    print("every goal met")


if __name__ == "__main__":
    main()
