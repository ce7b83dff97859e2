// SPDX-License-Identifier: Apache-2.0
//! The root filesystem of the images that container managers get: busybox under every name that it has, and two users.

/// For a shell on a host: makes it in the directory `image`.
pub(crate) const MAKE_ROOT: &str = r#"
mkdir -p image/bin image/etc image/proc image/sys image/dev image/root image/run image/tmp
chmod 1777 image/tmp
busybox=$(command -v busybox)
cp "$busybox" image/bin/busybox
for name in $("$busybox" --list); do [ "$name" = busybox ] || ln -s busybox "image/bin/$name"; done
printf 'root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/tmp:/bin/sh\n' >image/etc/passwd
printf 'root:x:0:\nguest:x:1000:\n' >image/etc/group
"#;
