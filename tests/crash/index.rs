//! The file is sound, and so is its index: said by SQLite itself, and by whoever counts the tags.

use rusqlite::Connection;

use crate::check::{Checked, ensure};

pub(crate) fn check_integrity(connection: &Connection) -> Checked {
    let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    ensure(verdict == "ok", || format!("the file is damaged: {verdict}"))?;
    check_index(connection)
}

/// The runs of the index hold, for every event up to `indexed_through`, an entry for each of its tags, and nothing else but
/// entries of pruned events, which leave with the next merge.
fn check_index(connection: &Connection) -> Checked {
    let (indexed_through, pruned_through): (i64, i64) =
        connection.query_row("SELECT indexed_through, pruned_through FROM log", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let mut entries = Vec::new();
    let mut statement = connection.prepare(
        "SELECT run.after, run.through, block.entries FROM index_run AS run JOIN index_block AS block USING (run)",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (after, through): (i64, i64) = (row.get(0)?, row.get(1)?);
        let block: Vec<u8> = row.get(2)?;
        for entry in block.chunks(16) {
            let number =
                |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().expect("an entry is two integers"));
            let (key, sequence) = (number(&entry[..8]), number(&entry[8..]));
            ensure(after < sequence && sequence <= through, || {
                format!("the run of {after} to {through} has an entry of event {sequence}")
            })?;
            if sequence > pruned_through {
                entries.push((sequence, key));
            }
        }
    }
    let mut expected = Vec::new();
    let mut statement = connection.prepare(
        "SELECT sequence, tag.value FROM event, json_each(event.tags) AS tag WHERE sequence <= ?1",
    )?;
    let mut rows = statement.query([indexed_through])?;
    while let Some(row) = rows.next()? {
        expected.push((row.get(0)?, fnv1a(row.get_ref(1)?.as_str()?)));
    }
    entries.sort_unstable();
    expected.sort_unstable();
    ensure(entries == expected, || {
        format!(
            "the index holds {} entries of events up to {indexed_through}, which carry {} tags",
            entries.len(),
            expected.len()
        )
    })
}

fn fnv1a(text: &str) -> i64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.cast_signed()
}
