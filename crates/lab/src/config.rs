//! Configuration fragments: the values that a kernel must have, over the architecture's defaults.
//!
//! Invariant: a kernel is built only if its final configuration has every requested value. kconfig
//! drops values with unmet dependencies silently, and a detector that is not built in passes every test.

use crate::error::{Error, Result};

/// A group of wanted values, in kconfig's own syntax; comments give the reason.
#[derive(Debug, Clone)]
pub struct Fragment {
    /// Its name in messages.
    pub name: String,
    /// Lines `CONFIG_X=value` and `# CONFIG_X is not set`.
    pub text: String,
}

/// A wanted value.
#[derive(Debug, PartialEq, Eq)]
struct Request<'a> {
    option: &'a str,
    /// `None` for "not set".
    value: Option<&'a str>,
}

impl Fragment {
    fn requests(&self) -> impl Iterator<Item = Request<'_>> {
        self.text.lines().filter_map(parse)
    }

    /// Checks that `config`, a complete `.config`, has every value of this fragment.
    pub(crate) fn check(&self, config: &str) -> Result<()> {
        for request in self.requests() {
            let got = value(config, request.option);
            if got != request.value {
                return Err(Error::Config {
                    fragment: self.name.clone(),
                    asked: show(request.option, request.value),
                    got: show(request.option, got),
                });
            }
        }
        Ok(())
    }
}

fn parse(line: &str) -> Option<Request<'_>> {
    if let Some((option, value)) = line.split_once('=') {
        return option.starts_with("CONFIG_").then_some(Request {
            option,
            value: Some(value),
        });
    }
    let option = line.strip_prefix("# ")?.strip_suffix(" is not set")?;
    option.starts_with("CONFIG_").then_some(Request {
        option,
        value: None,
    })
}

fn value<'a>(config: &'a str, option: &str) -> Option<&'a str> {
    config
        .lines()
        .find_map(|line| line.strip_prefix(option)?.strip_prefix('='))
}

fn show(option: &str, value: Option<&str>) -> String {
    match value {
        Some(value) => format!("{option}={value}"),
        None => format!("{option} not set"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(text: &str) -> Fragment {
        Fragment {
            name: "f".into(),
            text: text.into(),
        }
    }

    #[test]
    fn check_of_a_dropped_value_names_it() {
        let error = fragment("# why\nCONFIG_A=y\nCONFIG_B=2\n")
            .check("CONFIG_A=y\n# CONFIG_B is not set\n");
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("CONFIG_B not set where f asks for CONFIG_B=2"),
            "{error}"
        );
    }

    #[test]
    fn check_of_an_option_that_should_be_off_fails_if_it_is_on() {
        assert!(
            fragment("# CONFIG_A is not set\n")
                .check("CONFIG_A=y\n")
                .is_err()
        );
        assert!(
            fragment("# CONFIG_A is not set\n")
                .check("CONFIG_AB=y\n")
                .is_ok()
        );
    }
}
