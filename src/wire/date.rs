//! Dates of HTTP headers: `Sun, 06 Nov 1994 08:49:37 GMT`.
//!
//! Source: RFC 9110, section 5.6.7; the obsolete forms are not read.

/// Reads a date as seconds since the epoch. `None` if it is none.
pub(crate) fn parse(text: &str) -> Option<i64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let (_, rest) = text.split_once(", ")?;
    let mut parts = rest.split(' ');
    let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
    let (clock, zone) = (parts.next()?, parts.next()?);
    let at = MONTHS.find(month).filter(|at| month.len() == 3 && at % 3 == 0)?;
    if zone != "GMT" || parts.next().is_some() {
        return None;
    }
    let mut clock = clock.split(':').map(|part| number(part, 2));
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if clock.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (day, year) = (number(day, 2)?, number(year, 4)?);
    let month = i64::try_from(at / 3).ok()? + 1;
    if !(1..=31).contains(&day) {
        return None;
    }
    let days = crate::calendar::days(year, month, day);
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

fn number(text: &str, digits: usize) -> Option<i64> {
    let fits = text.len() == digits && text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|_| fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_and_anything_else_is_not() {
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        for text in [
            "",
            "06 Nov 1994 08:49:37 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 anF 1994 08:49:37 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
