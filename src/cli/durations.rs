// SPDX-License-Identifier: Apache-2.0
//! Lengths of time as Go programs write them: `5s`, `100ms`, `1m30s`, `1.5h`.

use std::time::Duration;

use crate::{Error, ErrorKind};

const UNITS: [(&str, f64); 7] =
    [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

/// Reads a length of time greater than nothing.
pub(super) fn positive(text: &str) -> Result<Duration, Box<dyn std::error::Error + Send + Sync>> {
    let invalid = || format!("`{text}` is no length of time, like 5s or 100ms");
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let negative = rest.starts_with('-');
    rest = rest.strip_prefix('-').unwrap_or(rest);
    let mut seconds = 0.0;
    if rest == "0" {
        rest = "";
    } else if rest.is_empty() {
        return Err(invalid().into());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, after) = rest.split_at(digits);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let (_, length) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
        seconds += number * length;
        rest = after;
    }
    match Duration::try_from_secs_f64(seconds) {
        Ok(length) if !length.is_zero() && !negative => Ok(length),
        Ok(_) => Err(Error::new(ErrorKind::InvalidInput, "duration interval must be greater than 0").into()),
        Err(_) => Err(invalid().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        for (text, milliseconds) in [
            ("5s", 5000),
            ("100ms", 100),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("2ms500us", 2),
            ("+1s", 1000),
        ] {
            assert_eq!(positive(text).expect(text).as_millis(), milliseconds, "{text}");
        }
        for text in ["", "5", "s", "5x", "1s-", "5 s", "-", "1.2.3s"] {
            assert!(positive(text).expect_err(text).to_string().contains("no length of time"), "{text}");
        }
        for text in ["0", "0s", "-1s", "-0"] {
            assert!(positive(text).expect_err(text).to_string().contains("must be greater than 0"), "{text}");
        }
    }
}
