# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Sourced by scripts/vm-lab. Builds what a virtual machine boots: a kernel, an initramfs and a root filesystem, all from Debian packages,
# once, into a directory that is named after everything that went into them. Starts no machine.

lab_cache=${MIGRATE_VM_CACHE:-/var/cache/migrate-vm-lab}
lab_suite=${MIGRATE_VM_SUITE:-trixie}

# What is in the root besides the essential packages.
lab_packages=(systemd systemd-sysv libpam-systemd dbus dbus-user-session apparmor kmod udev iproute2 iptables nftables busybox-static
    dropbear-bin openssh-client runc zstd procps psmisc uidmap python3-minimal)

# The directory of the images, whether it is there or not.
image_directory() {
    local key
    key=$({
        cat "$top"/scripts/vm/image.sh "$top"/scripts/vm/guest/*
        printf '%s\n' "$lab_suite" "$(uname -m)"
        cat "$criu_prefix/$criu_marker" 2>/dev/null || true
    } | sha256sum | cut -c1-16)
    echo "$lab_cache/$key"
}

# Builds the images unless they are there, and removes those of other inputs that no machine uses. Sets `images`.
build_images() {
    local began=$SECONDS other
    images=$(image_directory)
    [ "$(uname -m)" = x86_64 ] || fail "the virtual machines are x86_64 ones, and this machine is $(uname -m)"
    mkdir -p "$lab_cache"
    exec 8>"$lab_cache/lock"
    flock 8
    if [ ! -e "$images/complete" ]; then
        say "building the images of the virtual machines in $images (about two minutes)"
        rm -rf "$images" "$lab_cache"/.building.??????
        image_scratch=$(mktemp -d "$lab_cache/.building.XXXXXX")
        fetch_kernel "$image_scratch"
        make_root "$image_scratch"
        make_initramfs "$image_scratch"
        make_disk "$image_scratch"
        rm -rf "$image_scratch/root" "$image_scratch/tree" "$image_scratch/apt" "$image_scratch/kernel" "$image_scratch/log"
        : >"$image_scratch/complete"
        chmod 700 "$image_scratch"
        # Complete on the disk before it has the name by which it is found.
        sync -f "$image_scratch/complete"
        mv -T "$image_scratch" "$images"
        image_scratch=
        say "the images are built ($((SECONDS - began)) s)"
    fi
    for other in "$lab_cache"/????????????????; do
        # A machine that runs holds the lock of its images.
        [ "$other" = "$images" ] || [ ! -d "$other" ] || flock -n "$other" rm -rf "$other" || true
    done
    exec 8>&-
}

# The suite's kernel for virtual machines, unpacked, not installed.
fetch_kernel() {
    local work=$1 package
    private_apt "$work/apt" "$lab_suite"
    package=$(apt-cache "${apt[@]:3}" depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    [ -n "$package" ] || fail "Debian suite $lab_suite has no kernel linux-image-cloud-amd64"
    mkdir "$work/kernel"
    (cd "$work" && logged "${apt[@]}" download "$package") || fail "cannot download $package: see above"
    dpkg-deb --extract "$work"/linux-image-*.deb "$work/kernel"
    rm "$work"/linux-image-*.deb
    cp "$work"/kernel/boot/vmlinuz-* "$work/vmlinuz"
}

# A Debian root with the lab's own files, the kernel's modules, and the CRIU of this machine.
make_root() {
    local work=$1 root=$1/root entry uri keys release include
    local extra=()
    release=$(basename "$work"/kernel/boot/vmlinuz-* | cut -c9-)
    entry=$(debian_entry)
    uri=${entry#* }
    keys=$(keyring_of "${entry%% *}")
    [[ $keys != /* ]] || extra=(--keyring="${keys%% *}")
    include=$(IFS=, && echo "${lab_packages[*]}")
    [ -e "$criu_prefix/criu" ] || include+=,criu
    logged debootstrap --variant=minbase --include="$include" "${extra[@]}" "$lab_suite" "$root" "$uri" ||
        fail "debootstrap could not make a root of Debian suite $lab_suite: see above"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}

    mkdir -p "$root/usr/lib/modules" "$root/lab/payload"
    cp -a "$work"/kernel/{usr/,}lib/modules/"$release" "$root/usr/lib/modules/" 2>/dev/null || true
    [ -d "$root/usr/lib/modules/$release" ] || fail "the kernel package has no modules for $release"
    chroot "$root" depmod "$release"
    if [ -e "$criu_prefix/criu" ]; then
        mkdir -p "$root$criu_prefix"
        cp -a "$criu_prefix/." "$root$criu_prefix/"
    fi
    customise_root "$root" "$work"
}

# Users, the way in, and what systemd need not do in a machine that lives for minutes: compiling Debian's AppArmor profiles alone would
# take it 15 seconds, and a test loads its own.
customise_root() {
    local root=$1 work=$2 unit
    install -m 755 "$top"/scripts/vm/guest/{boot,network} "$root/lab/"
    install -m 644 "$top/scripts/vm/guest/inittab" "$root/etc/inittab"
    install -m 644 "$top/scripts/vm/guest/lab.service" "$root/etc/systemd/system/lab.service"
    ln -s /bin/busybox "$root/lab/init"
    chroot "$root" useradd --create-home --uid 1000 --shell /bin/sh guest
    # systemctl would do the same and say a lot about /proc.
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
    ln -s ../lab.service "$root/etc/systemd/system/multi-user.target.wants/lab.service"
    for unit in getty@tty1.service serial-getty@ttyS0.service apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer \
        e2scrub_reap.service fstrim.timer dpkg-db-backup.timer systemd-networkd-wait-online.service apparmor.service \
        ldconfig.service systemd-journal-catalog-update.service systemd-binfmt.service modprobe@drm.service systemd-update-utmp.service; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
    # The kernel's names: the scripts know eth0.
    ln -s /dev/null "$root/etc/systemd/network/99-default.link"
    : >"$root/etc/fstab"
    echo vm >"$root/etc/hostname"
    printf '127.0.0.1 localhost\n10.9.0.1 a\n10.9.0.2 b\n' >"$root/etc/hosts"

    ssh-keygen -q -t ed25519 -N '' -C vm-lab -f "$work/key"
    chroot "$root" dropbearkey -t ed25519 -f /lab/host-key >"$work/log" 2>/dev/null
    printf '* %s\n' "$(grep '^ssh-ed25519 ' "$work/log")" >"$work/known-hosts"
    # The machines reach each other as the caller reaches them.
    for home in root home/guest; do
        install -d -m 700 "$root/$home/.ssh"
        install -m 600 "$work/key" "$root/$home/.ssh/id_ed25519"
        install -m 600 "$work/key.pub" "$root/$home/.ssh/authorized_keys"
        install -m 644 "$work/known-hosts" "$root/$home/.ssh/known_hosts"
    done
    chroot "$root" chown -R guest: /home/guest
}

# Loads what the disk needs, and hands over to it.
make_initramfs() {
    local work=$1 root=$1/root tree=$1/tree release line file name
    release=$(basename "$work"/kernel/boot/vmlinuz-* | cut -c9-)
    mkdir -p "$tree"/{bin,dev,proc,new,modules}
    cp "$root/usr/bin/busybox" "$tree/bin/busybox"
    {
        echo '#!/bin/busybox sh'
        echo '/bin/busybox mount -t proc proc /proc'
        echo '/bin/busybox mount -t devtmpfs dev /dev'
        while read -r line; do
            file=$(sed -n 's/^insmod \([^ ]*\).*/\1/p' <<<"$line")
            [ -n "$file" ] || continue
            name=$(basename "${file%.xz}")
            if [ "$file" = "${file%.xz}" ]; then cp "$root$file" "$tree/modules/$name"; else busybox xzcat "$root$file" >"$tree/modules/$name"; fi
            echo "/bin/busybox insmod /modules/$name"
        done < <(for module in virtio_pci virtio_blk ext4; do chroot "$root" modprobe --set-version "$release" --show-depends "$module"; done | awk '!seen[$0]++')
        cat <<'TEXT'
until [ -b /dev/vda ]; do /bin/busybox usleep 10000; done
/bin/busybox mount -t ext4 /dev/vda /new
/bin/busybox mount --move /dev /new/dev
init=/lab/init
for word in $(/bin/busybox cat /proc/cmdline); do
    case $word in lab.init=*) init=${word#*=} ;; esac
done
/bin/busybox umount /proc
exec /bin/busybox switch_root /new "$init"
TEXT
    } >"$tree/init"
    chmod 755 "$tree/init"
    mkdir -p "$tree/bin"
    ln -s busybox "$tree/bin/["
    (cd "$tree" && find . | "$root/usr/bin/busybox" cpio -o -H newc 2>/dev/null) | gzip -1 >"$work/initramfs"
}

make_disk() {
    local work=$1
    # Sparse: what is never written costs nothing, and what a machine writes goes to a file of its own.
    logged mke2fs -q -t ext4 -E root_owner=0:0 -O ^has_journal -d "$work/root" "$work/root.img" 6G ||
        fail "mke2fs could not make the root disk: see above"
}
