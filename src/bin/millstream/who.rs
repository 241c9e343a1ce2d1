//! Who does something that others will see.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

#[derive(Args)]
pub(crate) struct Who {
    /// Who does it, and why, for those who see it
    #[arg(long, env = USER_VARIABLE, value_name = "WHO", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) by: String,
}

/// What names the user.
const USER_VARIABLE: &str = if cfg!(windows) { "USERNAME" } else { "USER" };
