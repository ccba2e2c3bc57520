//! Durations as people write them.

use std::time::Duration;

/// `500ms`, `10s`, `5m`, `1h30m`; a number alone is seconds.
pub fn parse(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a time such as 500ms, 10s, 5m or 1h30m";
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(EXPECTED.to_owned());
    }
    while !rest.is_empty() {
        let number_ends = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(EXPECTED)?;
        let (number, tail) = rest.split_at(number_ends);
        let unit_ends = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_ends);
        let number: f64 = number.parse().map_err(|_| EXPECTED)?;
        let seconds = match unit.trim() {
            "ms" => number / 1e3,
            "s" | "sec" => number,
            "m" | "min" => number * 60.0,
            "h" => number * 3600.0,
            "d" => number * 86_400.0,
            other => return Err(format!("unknown unit '{other}'; {EXPECTED}")),
        };
        total += Duration::try_from_secs_f64(seconds).map_err(|_| "too long".to_owned())?;
        rest = tail.trim_start();
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(parse("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse("2m 5s"), Ok(Duration::from_secs(125)));
        assert!(parse("").is_err());
        assert!(parse("ten").is_err());
        assert!(parse("10 parsecs").unwrap_err().contains("'parsecs'"));
        assert!(parse("99999999999999999999d").is_err());
    }
}
