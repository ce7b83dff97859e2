// SPDX-License-Identifier: Apache-2.0
//! Properties of a container's unit that its configuration gives as annotations: `org.systemd.property.NAME`, with the
//! value in GVariant's text format. Pure.

use std::collections::HashMap;

use super::bus::Value;
use super::gvariant;
use super::properties::Property;
use crate::{Error, ErrorKind, Result};

const PREFIX: &str = "org.systemd.property.";

/// The properties, sorted by name.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`] names the annotation.
pub(super) fn properties(annotations: Option<&HashMap<String, String>>) -> Result<Vec<Property>> {
    let mut properties = Vec::new();
    for (key, text) in annotations.into_iter().flatten() {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        let bad = |why: String| Error::new(ErrorKind::InvalidConfig, why);
        if name.len() < 3 {
            return Err(bad(format!("annotation {key} name incorrect: too short")));
        }
        if !name.bytes().all(|letter| letter.is_ascii_alphabetic()) {
            return Err(bad(format!("annotation {key} name incorrect: it has more than letters")));
        }
        let value = gvariant::parse(text)
            .map_err(|why| bad(format!("annotation {key}={text} value parse error: {why}")))?;
        properties.push(match in_microseconds(name) {
            Some(name) => {
                let value = microseconds(&value).ok_or_else(|| {
                    bad(format!("annotation {key}={text} value parse error: not a number of seconds"))
                })?;
                Property::new(name, Value::Uint64(value))
            }
            None => Property::new(name, value),
        });
    }
    properties.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(properties)
}

/// systemd's files have times in seconds, under a name with `Sec`; its interface has them in microseconds.
fn in_microseconds(name: &str) -> Option<String> {
    let stem = name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase()))?;
    Some(format!("{stem}USec"))
}

fn microseconds(seconds: &Value) -> Option<u64> {
    const MICROSECONDS: u64 = 1_000_000;
    let seconds = match seconds {
        Value::Byte(n) => u64::from(*n),
        Value::Uint16(n) => u64::from(*n),
        Value::Uint32(n) => u64::from(*n),
        Value::Uint64(n) => *n,
        Value::Int16(n) => u64::try_from(*n).ok()?,
        Value::Int32(n) => u64::try_from(*n).ok()?,
        Value::Int64(n) => u64::try_from(*n).ok()?,
        // It saturates, and what is no number is 0.
        Value::Double(n) if *n >= 0.0 => return Some((*n * MICROSECONDS as f64) as u64),
        _ => return None,
    };
    seconds.checked_mul(MICROSECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: &str, value: &str) -> Result<Vec<Property>> {
        properties(Some(&HashMap::from([(key.to_owned(), value.to_owned())])))
    }

    #[test]
    fn annotations_are_properties() {
        for (key, text, name, value) in [
            ("TimeoutStopUSec", "uint64 123456789", "TimeoutStopUSec", Value::Uint64(123_456_789)),
            ("TimeoutStopSec", "5", "TimeoutStopUSec", Value::Uint64(5_000_000)),
            ("TimeoutStopSec", "uint16 2", "TimeoutStopUSec", Value::Uint64(2_000_000)),
            ("TimeoutStopSec", "1.5", "TimeoutStopUSec", Value::Uint64(1_500_000)),
            ("CollectMode", "'inactive-or-failed'", "CollectMode", Value::text("inactive-or-failed")),
            ("NotUSec", "1", "NotUSec", Value::Int32(1)),
            ("After", "['a.service']", "After", Value::Array("s".to_owned(), vec![Value::text("a.service")])),
        ] {
            let found = of(&format!("{PREFIX}{key}"), text).expect(text);
            assert_eq!(found, [Property::new(name, value)], "{key}={text}");
        }
        assert_eq!(of("org.example", "x").expect("not ours"), []);
        assert_eq!(properties(None).expect("none"), []);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (key, text, why) in [
            ("ab", "1", "annotation org.systemd.property.ab name incorrect: too short"),
            ("a.b", "1", "name incorrect"),
            ("Näme", "1", "name incorrect"),
            ("TimeoutStopSec", "'x'", "value parse error"),
            ("TimeoutStopSec", "-1", "value parse error"),
            (
                "CollectMode",
                "inactive",
                "annotation org.systemd.property.CollectMode=inactive value parse error",
            ),
        ] {
            let error = of(&format!("{PREFIX}{key}"), text).expect_err(text);
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
