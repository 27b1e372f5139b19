//! ISO 8601 dates in relaxed extended JSON: `2026-01-31T12:00:00.5Z`, or with an offset from UTC.

use crate::http_date::days_since_epoch;

/// Parses a date and time and returns the milliseconds since the epoch. `None` if the text is not
/// one.
pub(super) fn parse(text: &str) -> Option<i64> {
    let (date, rest) = text.split_once('T')?;
    let (clock, offset) = match rest.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, 0),
        None => {
            let at = rest.rfind(['+', '-'])?;
            let offset = &rest[at + 1..];
            // Some servers write `+0000`.
            let (hours, minutes) = offset.split_once(':').or_else(|| offset.split_at_checked(2))?;
            let minutes = number(hours, 2, 23)? * 60 + number(minutes, 2, 59)?;
            (&rest[..at], if rest[at..].starts_with('-') { -minutes } else { minutes })
        }
    };
    let mut parts = date.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let (year, month, day) = (number(year, 4, 9999)?, number(month, 2, 12)?, number(day, 2, 31)?);
    if month == 0 || day == 0 || day > days_in_month(year, month) {
        return None;
    }
    let mut parts = clock.split(':');
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let (second, fraction) = second.split_once('.').unwrap_or((second, "0"));
    if fraction.is_empty() || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let millis: i64 = format!("{fraction:0<3}")[..3].parse().ok()?;
    let minutes = (days_since_epoch(year, month, day) * 24 + number(hour, 2, 23)?) * 60;
    let minutes = minutes + number(minute, 2, 59)? - offset;
    Some((minutes * 60 + number(second, 2, 59)?) * 1000 + millis)
}

fn number(text: &str, digits: usize, most: i64) -> Option<i64> {
    let fits = text.len() == digits && text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|number| fits && *number <= most)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_parsed() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59.999Z", -1),
            ("2000-02-29T12:30:00.25Z", 951_827_400_250),
            ("2026-11-22T00:00:00+01:00", 1_795_302_000_000),
            ("2026-11-21T18:30:00.000000-04:30", 1_795_302_000_000),
            ("2026-11-21T18:30:00.000-0430", 1_795_302_000_000),
            ("0001-01-01T00:00:00Z", -62_135_596_800_000),
            ("9999-12-31T23:59:59.9999Z", 253_402_300_799_999),
        ] {
            assert_eq!(parse(text), Some(millis), "{text}");
        }
    }

    #[test]
    fn other_text_is_not_a_date() {
        for text in [
            "",
            "T",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00Z",
            "26-01-01T00:00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.xZ",
            "2026-01-01T00:00:00+1:00",
            "2026-01-01T00:00:00+01",
            "2026-01-01T00:00:00+01000",
            "2026-01-01T00:00:00+\u{e4}00",
            "2026-01-01-01T00:00:00Z",
            "2026-01-01T00:00:00ä",
            "+026-01-01T00:00:00Z",
            "2026-01-01T00:00:00é+01:00",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
