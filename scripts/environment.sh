# shellcheck shell=bash disable=SC2034
# SPDX-License-Identifier: Apache-2.0
#
# Sourced by the other scripts. Knows where things are on this machine: the Rust toolchain (under sudo too), a CRIU and whether it
# suits the running kernel, the programs built here. Installs nothing and starts nothing that outlives it.

top=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin
criu_prefix=${MIGRATE_CRIU_PREFIX:-/opt/migrate-criu}
qemu_prefix=${MIGRATE_QEMU_PREFIX:-/opt/migrate-qemu}
crun_prefix=${MIGRATE_CRUN_PREFIX:-/opt/migrate-crun}
runc_prefix=${MIGRATE_RUNC_PREFIX:-/opt/migrate-runc}
registry_prefix=${MIGRATE_REGISTRY_PREFIX:-/opt/migrate-registry}
checkpointctl_prefix=${MIGRATE_CHECKPOINTCTL_PREFIX:-/opt/migrate-checkpointctl}
sshd_prefix=${MIGRATE_SSHD_PREFIX:-/opt/migrate-sshd}
criu_marker=.made-by-migrate-setup
quiet=${quiet:-}

say() { [ -n "$quiet" ] || printf '%s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

require_root() {
    [ "$(id -u)" -eq 0 ] || fail "this needs root: run 'sudo $0'"
}

# at_least HAVE WANT: is version HAVE the same as WANT or newer?
at_least() {
    [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]
}

# --- CRIU ---------------------------------------------------------------------------------------------------------------------------

# The oldest CRIU that works on the running kernel: 6.13 split the vDSO's data in a way that CRIU 4.1 learned, 6.18 refuses a socket
# option that CRIU before 4.2 insists on reading.
criu_wanted() {
    local kernel
    kernel=$(uname -r)
    if at_least "$kernel" 6.18; then
        echo 4.2
    elif at_least "$kernel" 6.13; then
        echo 4.1
    else
        echo 3.16
    fi
}

# criu_version PROGRAM: prints its version, or nothing if it does not run.
criu_version() {
    "$1" --version 2>/dev/null | sed -n 's/^Version: *//p' | head -n 1
}

# criu_works PROGRAM: new enough for this kernel, and CRIU's own check passes. CRIU mounts things while it checks; `/` may be shared.
criu_works() {
    local version
    version=$(criu_version "$1")
    [ -n "$version" ] && at_least "$version" "$(criu_wanted)" &&
        unshare --mount --propagation private "$1" check >/dev/null 2>&1
}

# Prints the CRIU that `migrate` will use, in the order in which it looks, or nothing.
find_criu() {
    local candidate
    for candidate in "${MIGRATE_CRIU:-}" "$criu_prefix/criu"; do
        if [ -n "$candidate" ] && [ -x "$candidate" ]; then
            echo "$candidate"
            return
        fi
    done
    command -v criu || true
}

# Tells `migrate` about a prefix that is not its compiled default.
export_criu() {
    if [ -z "${MIGRATE_CRIU:-}" ] && [ -n "${MIGRATE_CRIU_PREFIX:-}" ]; then
        export MIGRATE_CRIU=$criu_prefix/criu
    fi
}

# Prints the emulator for the virtual machines, or nothing.
find_qemu() {
    if [ -x "$qemu_prefix/qemu-system-x86_64" ]; then
        echo "$qemu_prefix/qemu-system-x86_64"
        return
    fi
    command -v qemu-system-x86_64 || true
}

# private_words WRAPPER: the words that start a private program, or nothing. Without the shell of its wrapper, which a measurement
# would count.
private_words() {
    [ ! -x "$1" ] || sed -n 's/^exec \(.*\) "\$@"$/\1/p' "$1" | tr -d '"'
}

# --- Rust ---------------------------------------------------------------------------------------------------------------------------

# The user who called sudo, if there is one, else nothing.
invoking_user() {
    if [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ] && id "$SUDO_USER" >/dev/null 2>&1; then
        echo "$SUDO_USER"
    fi
}

home_of() { getent passwd "$1" | cut -d: -f6; }

# Puts cargo on PATH. sudo drops the invoking user's PATH, and rustup installs into that user's home: root then runs that toolchain,
# with root's own CARGO_HOME, so that nothing in the user's home ends up owned by root.
find_cargo() {
    local user home directory
    user=$(invoking_user)
    home=$([ -z "$user" ] || home_of "$user")
    if [ -n "$home" ] && [ -x "$home/.cargo/bin/cargo" ]; then
        PATH=$home/.cargo/bin:$PATH
        [ ! -d "$home/.rustup" ] || export RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
    elif ! command -v cargo >/dev/null; then
        for directory in "${CARGO_HOME:-/root/.cargo}/bin" /root/.cargo/bin /usr/local/cargo/bin; do
            if [ -x "$directory/cargo" ]; then
                PATH=$directory:$PATH
                break
            fi
        done
    fi
    export PATH
}

require_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$top/Cargo.toml")
    find_cargo
    if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
        fail "no Rust toolchain found: install Rust $wanted or newer (https://rustup.rs), then run this again"
    fi
    found=$(cd "$top" && rustc --version | cut -d' ' -f2)
    if [ -z "$found" ] || ! at_least "$found" "$wanted"; then
        fail "Rust ${found:-of unknown version} is too old: install Rust $wanted or newer (https://rustup.rs), then run this again"
    fi
}

# Whether programs can be linked without shared libraries.
links_statically() { echo 'int main(void) { return 0; }' | cc -static -x c -o /dev/null - >/dev/null 2>&1; }

# build_release: builds migrate and the workload programs, as the invoking user if the checkout is theirs.
#
# migrate is loaded twice for each container, and a program at a fixed address that needs no library is loaded in half the time. The
# flags are for the last step alone: with RUSTFLAGS, cargo would give them to the compiler's own plug-ins too, which cannot be static.
build_release() {
    local user static=() as=()
    user=$(invoking_user)
    if [ -n "$user" ] && [ "$(stat -c %U "$top")" = "$user" ]; then
        as=(runuser -u "$user" -- env HOME="$(home_of "$user")" PATH="$PATH" CARGO_HOME="$(home_of "$user")/.cargo")
    fi
    ! links_statically || static=(-C target-feature=+crt-static -C relocation-model=static)
    (
        cd "$top"
        "${as[@]}" cargo build --release --locked --package criu-tests --bins
        "${as[@]}" cargo rustc --release --locked --package migrate --bin migrate -- "${static[@]}"
    )
}

# What was built. MIGRATE_BIN and WORKLOAD_BIN name other programs, and then nothing is built.
migrate_bin=${MIGRATE_BIN:-${CARGO_TARGET_DIR:-$top/target}/release/migrate}
workload_bin=${WORKLOAD_BIN:-${CARGO_TARGET_DIR:-$top/target}/release/workload}

# --- root filesystems ---------------------------------------------------------------------------------------------------------------

# copy_program PROGRAM ROOTFS NAME: PROGRAM as /NAME in ROOTFS, with the shared libraries and the loader that it names.
copy_program() {
    local program=$1 rootfs=$2 name=$3 library
    install -D -m 755 "$program" "$rootfs/$name"
    # A static program has no libraries; ldd says so and fails.
    { ldd "$program" 2>/dev/null || true; } | sed -nE 's/.*=> (\/[^ ]+) .*/\1/p; s/^[[:space:]]*(\/[^ ]+) \(.*/\1/p' |
        while read -r library; do
            install -D -m 755 "$library" "$rootfs/$library"
        done
}
