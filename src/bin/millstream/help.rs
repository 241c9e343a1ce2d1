//! What every help page ends with: examples, and the exit codes.

/// Exit codes, as `docs/command-line.md` promises them.
macro_rules! exit_codes {
    () => {
        "\
Exit codes:
  0  done; also when nobody reads the output any more
  1  failed; the reason is on the standard error
  2  the command line makes no sense
  3  conflict: the context of the append or the cursor of the stream moved, the key of the append
     was used for other events, or somebody else is retrying the letters; nothing was changed
  4  the verification found damage, or a copy that is not what its source is
  5  dead letters failed again, or were not tried because an earlier one failed
  6  no process runs the stream: nothing was retried, and no request is left
  7  the retry goes on, and is not waited for any longer"
    };
}

/// Examples that can be typed as they stand, for a log that `MILLSTREAM_DB` names, and the exit codes.
macro_rules! examples {
    ($($example:literal),+ $(,)?) => {
        concat!("Examples:\n", $("  ", $example, "\n",)+ "\n", exit_codes!())
    };
}

pub(crate) use {examples, exit_codes};

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory, Parser};

    use crate::arguments::Arguments;

    /// The commands without subcommands, and what their help ends with.
    fn leaves(command: &Command, found: &mut Vec<(String, String)>) {
        if !command.has_subcommands() {
            let help = command.get_after_help().map(ToString::to_string);
            found.push((command.get_name().to_owned(), help.unwrap_or_default()));
        }
        for below in command.get_subcommands() {
            leaves(below, found);
        }
    }

    #[test]
    fn every_command_has_examples_that_can_be_typed() {
        let mut commands = Vec::new();
        leaves(&Arguments::command(), &mut commands);
        assert!(commands.len() > 20, "{commands:?}");
        for (name, help) in commands {
            let typed = help.split(['\n', '|', '(']).map(str::trim);
            let typed: Vec<&str> = typed.filter(|part| part.starts_with("millstream ")).collect();
            assert!(!typed.is_empty(), "{name} has no example");
            for line in typed {
                let line = line.split([')', '<', '>', '&']).next().unwrap_or(line);
                let words = line.split_whitespace().map(|word| word.trim_matches(['\'', '"']));
                let parsed = Arguments::try_parse_from(words.chain(["--db", "log.db"]));
                assert!(
                    parsed.is_ok(),
                    "{line}: {}",
                    parsed.err().map_or_else(String::new, |error| error.to_string())
                );
            }
        }
    }
}
