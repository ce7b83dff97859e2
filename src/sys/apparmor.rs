// SPDX-License-Identifier: Apache-2.0
//! Whether the running kernel enforces AppArmor's profiles. Must not know what is confined.

use std::fs;
use std::path::Path;

/// Whether AppArmor is there. `root` is where the machine's `/sys` lies: `/`.
pub fn is_enabled(root: &Path) -> bool {
    let parameter = root.join("sys/module/apparmor/parameters/enabled");
    fs::read(parameter).is_ok_and(|text| text.first() == Some(&b'Y'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_parameter_tells() {
        let root = tempfile::tempdir().expect("tempdir");
        assert!(!is_enabled(root.path()));
        let dir = root.path().join("sys/module/apparmor/parameters");
        fs::create_dir_all(&dir).expect("mkdir");
        for (text, expected) in [("Y\n", true), ("N\n", false), ("", false)] {
            fs::write(dir.join("enabled"), text).expect("write");
            assert_eq!(is_enabled(root.path()), expected, "{text:?}");
        }
    }
}
