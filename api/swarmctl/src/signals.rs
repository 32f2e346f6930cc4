//! Signals by name and number, as Linux has them on x86-64 and arm64 (signal(7)).

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Reads `KILL`, `SIGKILL`, `kill` or `9`.
pub(crate) fn parse(text: &str) -> Result<i32, String> {
    let bad = || {
        format!("\"{text}\" is not a signal: write a name such as TERM or a number from 1 to 64")
    };
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) {
            Ok(number)
        } else {
            Err(bad())
        };
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    NAMES
        .iter()
        .position(|n| *n == name)
        .and_then(|at| i32::try_from(at + 1).ok())
        .ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_read_by_name_and_number() {
        for (text, number) in [
            ("KILL", 9),
            ("sigterm", 15),
            ("USR1", 10),
            ("64", 64),
            ("SYS", 31),
        ] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        for bad in ["", "0", "65", "-1", "NOPE", "SIG"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
