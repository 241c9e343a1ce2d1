//! How long it takes from a commit in one process to the handler in another.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::poll_fn;
use millstream::{HandleStream, Store};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::latency::percentile;
use crate::order::Order;
use crate::report::{Report, Target};
use crate::server::Server;
use crate::{Failure, Scale};

const SCHEMA: &str = "limits_latency";

pub(super) fn measure(
    runtime: &Runtime,
    server: &Server,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    if !report.wants("pg_latency") {
        return Ok(());
    }
    let store = runtime.block_on(server.store(SCHEMA, Store::builder()))?;
    let mut reader = Reader::start(&server.address())?;
    let (mut p50, mut p99, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..scale.rounds {
        let mut ours = Vec::with_capacity(scale.commits);
        for number in 0..scale.commits {
            runtime.block_on(store.append([Order::event(number as u64)]))?;
            let committed = SystemTime::now();
            ours.push(reader.handled()?.duration_since(committed).unwrap_or_default());
        }
        let limit = runtime.block_on(notify(server, scale.commits))?;
        let by_hand = runtime.block_on(by_hand(server, scale.commits))?;
        plain.push((percentile(&by_hand, 50), percentile(&limit, 50)));
        p50.push((percentile(&ours, 50), percentile(&limit, 50)));
        p99.push((percentile(&ours, 99), percentile(&limit, 99)));
    }
    report.add("pg_latency_p50", "us", &p50, Target::AtMost(2.0));
    report.add(
        "pg_latency_p50_plain",
        "us",
        &plain,
        Target::AtMost(f64::INFINITY),
    );
    report.add("pg_latency_p99", "us", &p99, Target::AtMost(f64::INFINITY));
    runtime.block_on(store.close())?;
    reader.stop()
}

/// The other process, with a live stream over everything.
struct Reader {
    process: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Reader {
    fn start(address: &str) -> Result<Self, Failure> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["--child", "server-reader", "", address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(process.stdout.take().ok_or("the output is a pipe")?);
        let mut reader = Self { process, lines };
        let mut ready = String::new();
        reader.lines.read_line(&mut ready)?;
        Ok(reader)
    }

    /// Waits until it has handled the next event, and says when that began.
    fn handled(&mut self) -> Result<SystemTime, Failure> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        Ok(UNIX_EPOCH + Duration::from_nanos(line.trim().parse()?))
    }

    /// Without its input it ends.
    fn stop(mut self) -> Result<(), Failure> {
        drop(self.process.stdin.take());
        self.process.wait()?;
        Ok(())
    }
}

/// What the child does: prints when each call of its handler began, until nobody is there any more.
pub(crate) async fn child(address: &str) -> Result<(), Failure> {
    let store = Store::builder().schema(SCHEMA).connect(address).await?;
    let handle = HandleStream::new(|_| {
        let at = SystemTime::now().duration_since(UNIX_EPOCH);
        async move {
            let mut output = std::io::stdout().lock();
            writeln!(output, "{}", at?.as_nanos())?;
            output.flush()?;
            Ok::<(), Failure>(())
        }
    });
    let stream = store.stream_all(handle).await?;
    println!("ready");
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    drop(stream);
    store.close().await?;
    Ok(())
}

/// `NOTIFY` on one connection, until another one has heard it.
async fn notify(server: &Server, count: usize) -> Result<Vec<Duration>, Failure> {
    let telling = server.plain(SCHEMA).await?;
    let (_listening, mut words) = listen(server).await?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let told = Instant::now();
        telling.batch_execute("NOTIFY limits").await?;
        let at = words.recv().await.ok_or("the connection has ended")?;
        times.push(at.saturating_duration_since(told));
    }
    Ok(times)
}

/// What a program does that has nothing but a table: from the commit of a row, with the word sent right behind it, until whoever heard the word has
/// read the row.
async fn by_hand(server: &Server, count: usize) -> Result<Vec<Duration>, Failure> {
    const TABLE: &str = "DROP TABLE IF EXISTS by_hand; CREATE TABLE by_hand
        (sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload text NOT NULL)";
    const NEW: &str = "SELECT sequence, payload FROM by_hand WHERE sequence > $1 ORDER BY sequence LIMIT 64";
    const WORD: &str = "BEGIN; SET LOCAL synchronous_commit = off; NOTIFY limits; COMMIT";
    let telling = server.plain(SCHEMA).await?;
    telling.batch_execute(TABLE).await?;
    let (listening, mut words) = listen(server).await?;
    listening
        .batch_execute(&format!("SET search_path TO {SCHEMA}"))
        .await?;
    let insert = "INSERT INTO by_hand (payload) VALUES ($1) RETURNING sequence";
    let (insert, new) = (telling.prepare(insert).await?, listening.prepare(NEW).await?);
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let payload = serde_json::to_string(&Order::new(number as u64))?;
        let writing = async {
            let row = telling.query_one(&insert, &[&payload]).await?;
            Ok::<_, tokio_postgres::Error>((row.get::<_, i64>(0), Instant::now()))
        };
        let reading = async {
            words.recv().await.ok_or("the connection has ended")?;
            let after = number as i64;
            let rows = listening.query(&new, &[&after]).await?;
            Ok::<_, Failure>((rows, Instant::now()))
        };
        let ((sequence, committed), _, (rows, read)) = tokio::try_join!(
            async { Ok(writing.await?) },
            async { Ok::<_, Failure>(telling.batch_execute(WORD).await?) },
            reading
        )?;
        if !rows.iter().any(|row| row.get::<_, i64>(0) == sequence) {
            return Err("the row was not read".into());
        }
        times.push(read.saturating_duration_since(committed));
    }
    Ok(times)
}

/// A connection that listens, and when it hears something.
async fn listen(server: &Server) -> Result<(Client, mpsc::Receiver<Instant>), Failure> {
    let (listening, mut connection) = tokio_postgres::connect(&server.address(), NoTls).await?;
    let (heard, words) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(_) = message
                && heard.send(Instant::now()).await.is_err()
            {
                return;
            }
        }
    });
    listening.batch_execute("LISTEN limits").await?;
    Ok((listening, words))
}
