//! A PostgreSQL server of its own, started from the programs that are installed here.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

/// How long the server may take to start, or to stop.
const LIMIT: Duration = Duration::from_secs(60);

/// Starts and stops the server as it is told, and ends it when nobody is there any more to tell. No word: the pipe is closed.
const WATCHER: &str = r#"
folder=$1 port=$2 postgres=$3 settings=$4
start() {
    "$postgres" -D "$folder/data" -p "$port" -k "$folder" -c listen_addresses=127.0.0.1 -c fsync=off \
        -c max_connections=300 -c log_min_messages=log -c lc_messages=C $settings 2>&1 &
    server=$!
}
stop() { kill "-$1" "$server" 2>/dev/null; wait "$server"; echo 'the server has stopped'; }
start
while read -r word; do
    case $word in
        start) start ;;
        stop) stop INT ;;
        crash) stop QUIT ;;
    esac
done
stop QUIT >/dev/null 2>&1
rm -rf "$folder"
"#;

/// A server that ends with the test process.
pub(crate) struct Cluster {
    port: u16,
    words: Mutex<Words>,
}

struct Words {
    watcher: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Whoever drops the cluster waits for its end.
    child: Child,
}

impl Cluster {
    /// A server in this folder, or in the one for temporary files, with files in its own folder, and with words for its command line, none
    /// of which has a space in it. An error says why there is none.
    pub(super) fn start(
        within: Option<&Path>,
        files: &[(&str, String)],
        settings: &str,
    ) -> Result<Self, String> {
        let programs = programs().ok_or("neither `initdb` nor `postgres` is installed")?;
        let user = user()?;
        let mut folder = tempfile::Builder::new();
        let folder = folder.prefix("millstream-postgres-");
        let folder = within
            .map_or_else(|| folder.tempdir(), |within| folder.tempdir_in(within))
            .map_err(|error| format!("there is no folder for it: {error}"))?;
        // The watcher removes it, when the server has stopped.
        let folder = folder.keep();
        if let Some((uid, gid)) = user {
            chown(&folder, Some(uid), Some(gid)).map_err(|error| error.to_string())?;
        }
        init(&programs, &folder, user)?;
        for (name, text) in files {
            put(&folder.join("data").join(name), text, user).map_err(|error| error.to_string())?;
        }
        let port = free_port().map_err(|error| error.to_string())?;
        let mut watcher = Command::new("sh");
        watcher
            .args(["-c", WATCHER, "watcher"])
            .arg(&folder)
            .arg(port.to_string())
            .arg(programs.join("postgres"))
            .arg(settings)
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // What a terminal tells the tests is not meant for the server.
            .process_group(0);
        as_user(&mut watcher, user);
        let mut child = watcher.spawn().map_err(|error| error.to_string())?;
        let (give, lines) = mpsc::channel();
        let output = child.stdout.take().expect("it is a pipe");
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The server's words are read on, so that it is not held up.
                let _ = give.send(line);
            }
        });
        let watcher = child.stdin.take();
        let cluster = Self {
            port,
            words: Mutex::new(Words {
                watcher,
                lines,
                child,
            }),
        };
        cluster.words().until("ready to accept connections")?;
        Ok(cluster)
    }

    pub(crate) fn address(&self) -> String {
        format!("postgres://millstream@127.0.0.1:{}/postgres", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Stops the server: its sessions are ended.
    pub(crate) fn stop(&self) {
        self.tell("stop", "the server has stopped");
    }

    /// Stops the server as if it had crashed.
    pub(crate) fn crash(&self) {
        self.tell("crash", "the server has stopped");
    }

    /// Starts the server again.
    pub(crate) fn start_again(&self) {
        self.tell("start", "ready to accept connections");
    }

    fn tell(&self, word: &str, answer: &str) {
        let mut words = self.words();
        let watcher = words.watcher.as_mut().expect("the pipe is open");
        writeln!(watcher, "{word}").expect("the watcher listens");
        words.until(answer).expect("the server does as it is told");
    }

    fn words(&self) -> std::sync::MutexGuard<'_, Words> {
        self.words.lock().expect("nobody panicked with it")
    }
}

impl Words {
    /// Waits until the server, or who watches it, says this.
    fn until(&mut self, text: &str) -> Result<(), String> {
        let mut heard = Vec::new();
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) if line.contains(text) => return Ok(()),
                Ok(line) => heard.push(line),
                Err(_) => return Err(format!("the server did not say {text:?}, but: {heard:#?}")),
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let words = self.words.get_mut().expect("nobody panicked with it");
        // Without the pipe the watcher ends what it watches.
        words.watcher.take();
        let _ = words.child.wait();
    }
}

/// Where `initdb` and `postgres` are.
fn programs() -> Option<PathBuf> {
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&on_path).collect();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        folders.push(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    let found = folders
        .into_iter()
        .find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())?;
    // `initdb` looks for its companions where it really lies.
    let initdb = found.join("initdb").canonicalize().ok()?;
    initdb.parent().map(Path::to_owned)
}

/// The server refuses to run as root: whom it runs as instead, if it has to.
fn user() -> Result<Option<(u32, u32)>, String> {
    if !is_root() {
        return Ok(None);
    }
    let accounts = std::fs::read_to_string("/etc/passwd").map_err(|error| error.to_string())?;
    let ids = |name: &str| {
        let line = accounts
            .lines()
            .find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2).map(str::parse);
        Some((fields.next()?.ok()?, fields.next()?.ok()?))
    };
    let found = ["postgres", "nobody"].into_iter().find_map(ids);
    found
        .map(Some)
        .ok_or_else(|| String::from("there is no user to run it as"))
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|of_this_process| of_this_process.uid() == 0)
}

fn as_user(command: &mut Command, user: Option<(u32, u32)>) {
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
}

fn init(programs: &Path, folder: &Path, user: Option<(u32, u32)>) -> Result<(), String> {
    let mut initdb = Command::new(programs.join("initdb"));
    initdb
        .arg("-D")
        .arg(folder.join("data"))
        .args([
            "-U",
            "millstream",
            "--auth=trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ])
        .current_dir(folder);
    as_user(&mut initdb, user);
    let output = initdb.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "`initdb` failed: {}",
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// A file that the server alone may read: it insists on that with keys.
fn put(path: &Path, text: &str, user: Option<(u32, u32)>) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    match user {
        Some((uid, gid)) => chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

/// A port that nobody has just now.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
