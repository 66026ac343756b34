//! Why the program does not succeed, and its exit codes.

/// The command line, SOURCE or MOUNTPOINT is wrong: trying again changes nothing. clap's code for usage,
/// and what `RestartPreventExitStatus=` of thrufs@.service names.
pub(crate) const CONFIGURATION: u8 = 2;
/// mount(8)'s exit codes for a helper.
pub(crate) const MOUNT8_USAGE: u8 = 1;
pub(crate) const MOUNT8_FAILURE: u8 = 32;

/// Why the program does not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// See [`CONFIGURATION`].
    Configuration(anyhow::Error),
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl From<Failure> for anyhow::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Configuration(error) | Failure::Other(error) => error,
        }
    }
}
