// SPDX-License-Identifier: Apache-2.0
//! Sizes in bytes as people write them: `64M`, `1.5g`, `512 KiB`. A unit is a power of 1024, whatever its spelling.

/// Reads a size; -1 stands for unlimited.
pub(super) fn memory(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    let invalid = || format!("invalid size: '{text}'");
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.').ok_or_else(invalid)? + 1;
    let (number, unit) = text.split_at(end);
    if number.starts_with(['-', '+']) {
        return Err(invalid());
    }
    let number: f64 = number.parse().map_err(|_| invalid())?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if !unit.ends_with("ib") => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(invalid()),
    };
    let bytes = number * 1024_f64.powi(power);
    // 2^63 is the first number that is too large.
    if bytes.is_finite() && bytes < 9_223_372_036_854_775_808.0 { Ok(bytes as i64) } else { Err(invalid()) }
}

#[cfg(test)]
mod tests {
    use super::memory;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("-1", -1),
            ("0", 0),
            ("67108864", 67_108_864),
            ("32", 32),
            ("32b", 32),
            ("32B", 32),
            ("32k", 32 << 10),
            ("32 KB", 32 << 10),
            ("32Kib", 32 << 10),
            ("50M", 50 << 20),
            ("1.5g", 3 << 29),
            ("2TiB", 2 << 40),
            ("1P", 1 << 50),
            (".3kB", 307),
        ] {
            assert_eq!(memory(text), Ok(bytes), "{text}");
        }
        for text in
            ["", "M", "-2", "-5M", "+1", "1x", "1ib", "1 kk", "1  k", "0x10", "99999999P", "1.2.3", "hello"]
        {
            assert!(memory(text).is_err(), "{text}");
        }
    }
}
