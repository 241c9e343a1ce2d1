//! The rows of the events: as many as there are with one statement, which is given a column at a time.

use std::sync::Arc;

use tokio_postgres::Statement;

use crate::event::batch::CommittedBatch;
use crate::event::record::TAG_SEPARATOR;
use crate::log::postgres::session::Session;
use crate::log::postgres::trouble::Trouble;

/// The tags of a row come as one text: no tag has a control character.
const INSERT: &str = r"INSERT INTO event
        (sequence, batch_index, batch_size, recorded_at, type, schema_version, tags, payload, metadata)
    SELECT sequence, batch_index, batch_size, recorded_at, type, schema_version,
        string_to_array(tags, E'\n'), payload, metadata
    FROM unnest($1::bigint[], $2::integer[], $3::integer[], $4::bigint[], $5::text[], $6::bigint[], $7::text[],
        $8::text[], $9::text[])
        AS row (sequence, batch_index, batch_size, recorded_at, type, schema_version, tags, payload, metadata)";

/// How many bytes of texts, more or less, one statement is given.
const CHUNK_BYTES: usize = 4 << 20;

/// The statement that [`insert`] is to be given.
pub(super) async fn prepare(session: &mut Session) -> Result<Statement, Trouble> {
    session.prepare(INSERT).await
}

/// What of these batches goes with one statement: how many of them.
pub(super) fn chunk(batches: &[Arc<CommittedBatch>]) -> usize {
    let mut bytes = 0;
    let fits = batches.iter().position(|batch| {
        bytes += batch.weight_bytes();
        bytes > CHUNK_BYTES
    });
    // One is taken in any case.
    fits.unwrap_or(batches.len()).max(1)
}

/// Inserts the events of these batches.
pub(super) async fn insert(
    session: &Session,
    statement: &Statement,
    batches: &[Arc<CommittedBatch>],
) -> Result<(), Trouble> {
    let mut columns = Columns::default();
    let joined: Vec<Option<String>> = batches
        .iter()
        .flat_map(|batch| &batch.events)
        .map(joined_tags)
        .collect();
    for batch in batches {
        columns.take(batch);
    }
    let tags: Vec<Option<&str>> = joined.iter().map(Option::as_deref).collect();
    let inserted = session
        .client
        .execute(
            statement,
            &[
                &columns.sequences,
                &columns.indexes,
                &columns.sizes,
                &columns.times,
                &columns.types,
                &columns.versions,
                &tags,
                &columns.payloads,
                &columns.metadata,
            ],
        )
        .await?;
    debug_assert_eq!(inserted, columns.sequences.len() as u64, "every row was inserted");
    Ok(())
}

#[derive(Default)]
struct Columns<'a> {
    sequences: Vec<i64>,
    indexes: Vec<i32>,
    sizes: Vec<i32>,
    times: Vec<i64>,
    types: Vec<&'a str>,
    versions: Vec<i64>,
    payloads: Vec<&'a str>,
    metadata: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    fn take(&mut self, batch: &'a CommittedBatch) {
        // Of a batch that is copied events may be missing.
        let place =
            |sequence| i32::try_from(sequence - batch.first_sequence).expect("a batch has less than 4 GiB");
        let size = place(batch.last_sequence + 1);
        for event in &batch.events {
            self.sequences.push(event.sequence as i64);
            self.indexes.push(place(event.sequence));
            self.sizes.push(size);
            self.times.push(batch.recorded_at.as_micros());
            self.types.push(event.stored_type());
            self.versions.push(i64::from(event.stored_version()));
            self.payloads.push(event.stored_payload());
            self.metadata
                .push(event.metadata().map(|metadata| metadata.as_str()));
        }
    }
}

fn joined_tags(event: &crate::event::record::EventRecord) -> Option<String> {
    let mut joined: Option<String> = None;
    for tag in event.tags() {
        match &mut joined {
            None => joined = Some(tag.to_owned()),
            Some(joined) => {
                joined.push(TAG_SEPARATOR);
                joined.push_str(tag);
            }
        }
    }
    joined
}
