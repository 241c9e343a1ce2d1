//! Whatever the server knows of a log, it reads pages along the primary key: from where they begin, in order, and no further than asked.

use millstream::EventQuery;
use millstream::internals::server_search;

use crate::common::postgres::{Database, database, on_connection};

/// What the server may know of the events when it makes a plan.
const KNOWN: [&str; 3] = [
    "nothing yet",
    "as they are",
    "as they were when there were a tenth of them",
];

const EVENTS: i64 = 100_000;

/// Events from one sequence to another, of which the server counts nothing by itself.
fn insert(database: &Database, first: i64, last: i64) {
    let sql = format!(
        "ALTER TABLE event SET (autovacuum_enabled = off);
         INSERT INTO event (sequence, batch_index, batch_size, recorded_at, type, tags, payload)
             SELECT n, 0, 1, 0, 'type-' || n % 50, ARRAY['tag:' || n % 1000], repeat('x', 200)
             FROM generate_series({first}, {last}) n;
         UPDATE millstream_log SET head = {last}"
    );
    database.execute(&sql).expect("inserts");
}

/// The plans of a page after each of these positions, one for its own values and one for all.
fn plans(database: &Database, afters: &[i64]) -> Vec<String> {
    let (sql, texts) = server_search(&EventQuery::all(), &[]).expect("everything is searched");
    assert!(texts.is_empty());
    let mut statements = format!(
        "SET search_path TO {}; PREPARE page (bigint, bigint) AS {sql};",
        database.schema
    );
    for mode in ["force_custom_plan", "force_generic_plan"] {
        statements += &format!("SET plan_cache_mode = {mode};");
        for after in afters {
            for rows_max in [64, 8_192] {
                statements += &format!("EXPLAIN EXECUTE page ({after}, {rows_max}); SELECT 'end';");
            }
        }
    }
    on_connection(&database.address, async move |client| {
        let messages = client.simple_query(&statements).await.expect("is planned");
        let lines = messages.iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        let lines: Vec<String> = lines.collect();
        let plans = lines.split(|line| line == "end").map(|plan| plan.join("\n"));
        plans.filter(|plan| !plan.is_empty()).collect()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_is_a_range_scan_in_order_whatever_the_server_knows() {
    let afters = [0, EVENTS / 2, EVENTS - 5_000, EVENTS - 1];
    for known in KNOWN {
        let Some(database) = database() else { return };
        let store = database
            .builder()
            .connect(&database.address)
            .await
            .expect("opens");
        store.close().await.expect("closes");
        insert(&database, 1, EVENTS / 10);
        if known == KNOWN[2] {
            database.execute("ANALYZE event").expect("counts");
        }
        insert(&database, EVENTS / 10 + 1, EVENTS);
        if known == KNOWN[1] {
            database.execute("ANALYZE event").expect("counts");
        }
        let plans = plans(&database, &afters);
        assert_eq!(plans.len(), 2 * 2 * afters.len());
        for plan in plans {
            let scans =
                plan.contains("Index Scan using event_pkey") && plan.contains("Index Cond: (sequence >");
            let sorts = ["Sort", "Seq Scan", "Bitmap"]
                .iter()
                .any(|step| plan.contains(step));
            assert!(scans && !sorts, "it is known {known}: {plan}");
        }
    }
}
