//! What every command has: the log, the output, and whether it may ask.

use std::path::Path;

use millstream::{Limits, LogLocation, Store};

use crate::arguments::Common;
use crate::failure::Failure;
use crate::output::{Format, Output};
use crate::terminal::Consent;

pub(crate) struct Context {
    db: Option<std::path::PathBuf>,
    pub(crate) output: Output,
    pub(crate) consent: Consent,
}

/// What an export may hold, whatever limits its log was written with.
const IMPORT_BYTES_MAX: usize = 1 << 30;
const IMPORT_EVENTS_MAX: usize = 10_000_000;

impl Context {
    pub(crate) fn new(common: &Common) -> Self {
        let format = if common.json { Format::Json } else { Format::Text };
        Self {
            db: common.db.clone(),
            output: Output::new(format),
            consent: if common.yes { Consent::Given } else { Consent::Ask },
        }
    }

    /// Where the log is.
    pub(crate) fn location(&self) -> Result<LogLocation, Failure> {
        let told = self.db.as_deref().ok_or_else(|| {
            Failure::Usage(String::from(
                "which log? give --db PATH, or set the variable MILLSTREAM_DB",
            ))
        })?;
        Ok(LogLocation::parse(told)?)
    }

    /// Whether a log was named that is on a server.
    #[cfg(feature = "postgres")]
    pub(crate) fn is_on_server(&self) -> Result<bool, Failure> {
        match &self.db {
            Some(_) => Ok(self.location()?.path().is_none()),
            None => Ok(false),
        }
    }

    /// Opens the log, which has to be there.
    pub(crate) async fn open(&self) -> Result<Store, Failure> {
        Ok(Store::builder().must_exist().open_at(&self.location()?).await?)
    }

    /// Opens the log, or makes it.
    pub(crate) async fn open_or_make(&self) -> Result<Store, Failure> {
        Ok(Store::builder().open_at(&self.location()?).await?)
    }

    /// Opens the log, or makes it, for batches of another log.
    pub(crate) async fn open_for_import(&self, durability: millstream::Durability) -> Result<Store, Failure> {
        let limits = Limits::default()
            .batch_events_max(IMPORT_EVENTS_MAX)
            .batch_bytes_max(IMPORT_BYTES_MAX)
            .payload_bytes_max(IMPORT_BYTES_MAX)
            .metadata_bytes_max(IMPORT_BYTES_MAX)
            .tags_max(IMPORT_EVENTS_MAX)
            .tag_bytes_max(IMPORT_BYTES_MAX)
            .type_bytes_max(IMPORT_BYTES_MAX);
        let builder = Store::builder().limits(limits).durability(durability);
        Ok(builder.open_at(&self.location()?).await?)
    }

    /// Refuses to read or write the log itself as an ordinary file, which would drop the locks that protect it.
    pub(crate) fn refuse_log_as_file(&self, file: &Path) -> Result<(), Failure> {
        let location = self.location()?;
        let Some(db) = location.path() else {
            return Ok(());
        };
        let of_log = ["", "-wal", "-shm", "-turn"].map(|suffix| {
            let mut path = db.as_os_str().to_owned();
            path.push(suffix);
            std::path::PathBuf::from(path)
        });
        let is_same = |path: &std::path::PathBuf| match (path.canonicalize(), file.canonicalize()) {
            (Ok(one), Ok(other)) => one == other,
            _ => path == file,
        };
        if of_log.iter().any(is_same) {
            return Err(Failure::Usage(format!(
                "{} belongs to the log itself; choose another file",
                file.display()
            )));
        }
        Ok(())
    }
}
