//! How much a test does where a variable asks for more than CI has time for.

use std::str::FromStr;

use anyhow::{Context, Result};

/// Rounds of tests that are about a race, or about what grows.
pub const ROUNDS: &str = "THRUFS_TEST_ROUNDS";

/// The number in `variable`, or else `usual`.
///
/// # Errors
/// It is no number.
pub fn number<T: FromStr>(variable: &'static str, usual: T) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match std::env::var(variable) {
        Ok(number) => number.parse().context(variable),
        Err(_unset) => Ok(usual),
    }
}
