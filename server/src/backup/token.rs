//! What names a restored cluster: a token that is made once and given to every
//! machine that takes part.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

/// Names a restore. Machines that restore with the same token build one cluster.
///
/// It has the time at which it was made, so that all of them give leases the
/// same time, whatever their clocks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreToken {
    time_ms: u64,
    random: u128,
}

/// A text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a restore token; `keelstone restore` without one prints a new one")]
pub struct NotAToken;

impl RestoreToken {
    /// A new token.
    pub fn random() -> Self {
        Self { time_ms: super::source::millis_of(SystemTime::now()), random: rand::random() }
    }

    /// The token of this time and these random bits.
    pub fn from_parts(time_ms: u64, random: u128) -> Self {
        Self { time_ms, random }
    }

    /// When it was made, milliseconds since the Unix epoch.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }
}

impl fmt::Display for RestoreToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}-{:032x}", self.time_ms, self.random)
    }
}

impl FromStr for RestoreToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (time, random) = text.trim().split_once('-').ok_or(NotAToken)?;
        if random.len() != 32 {
            return Err(NotAToken);
        }
        let time_ms = u64::from_str_radix(time, 16).map_err(|_| NotAToken)?;
        let random = u128::from_str_radix(random, 16).map_err(|_| NotAToken)?;
        Ok(Self { time_ms, random })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text() {
        let token = RestoreToken::random();
        assert_eq!(token.to_string().parse(), Ok(token));
        for wrong in ["", "x", "12-34", "zz-00000000000000000000000000000000"] {
            assert_eq!(wrong.parse::<RestoreToken>(), Err(NotAToken), "{wrong}");
        }
    }
}
