//! The history of a repository as a stream of commits, each with the files it changed.
//!
//! `git diff-tree` is given the names of the commits and answers with their contents, one after the other, so memory
//! holds a few commits whatever the history's length. Its output is read by [`Commits`], a parser that knows nothing of
//! processes. A merge is recorded without files: the commits that it joins have recorded their own already, and counting
//! them again would credit whoever merges with everybody's lines. What a merge changed on its own, to solve a conflict, is
//! not seen.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::thread;

use tokio::sync::mpsc;

use crate::facts::Lines;
use crate::repository::{self, CommitId, GitError, Repository};

/// How many commits are read ahead of the log.
const COMMITS_AHEAD_MAX: usize = 64;

/// What starts a commit in git's output: neither a changed file (`:100644 ...`) nor a count of lines (`3<tab>1<tab>...`)
/// looks like it, and no field of a commit can hold the NUL that ends it.
const MARK: &[u8] = b"commit";
const FORMAT: &str = "--format=tformat:commit%x00%H%x00%P%x00%an%x00%ae%x00%at%x00%s";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) id: String,
    pub(crate) parents: Vec<String>,
    pub(crate) author_name: String,
    pub(crate) author_email: String,
    /// Seconds since 1970; none when the commit's date is broken.
    pub(crate) authored_at: Option<i64>,
    pub(crate) subject: String,
    pub(crate) changes: Vec<Change>,
}

/// A changed file. A binary file has no lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Added {
        path: String,
        lines: Option<Lines>,
    },
    Modified {
        path: String,
        lines: Option<Lines>,
    },
    Deleted {
        path: String,
        lines: Option<Lines>,
    },
    Renamed {
        from: String,
        path: String,
        lines: Option<Lines>,
    },
}

#[derive(Debug)]
pub(crate) enum HistoryError {
    Git(GitError),
    Io(io::Error),
    /// The output does not have the form that was asked for.
    Malformed {
        commit: String,
        found: String,
    },
    /// The output ended inside a commit.
    Truncated,
}

/// Reads these commits from the repository and sends them in the same order. Blocks; ends early, and well, when nobody
/// receives any more.
pub(crate) fn read(
    repository: &Repository,
    ids: &[CommitId],
    commits: &mpsc::Sender<Commit>,
) -> Result<(), HistoryError> {
    let mut child = repository
        .git()
        .args([
            "diff-tree",
            "--stdin",
            "--always",
            "--root",
            "-r",
            "-z",
            "--raw",
            "--numstat",
        ])
        .args([
            "-M50%",
            "-l1000",
            "--diff-algorithm=myers",
            "--no-ext-diff",
            "--no-textconv",
        ])
        .args(["--no-relative", "--no-color", "--encoding=UTF-8", FORMAT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(GitError::from)?;
    let complaint = repository::complaint(&mut child);
    let sent = thread::scope(|scope| {
        let input = child.stdin.take();
        // Git reads and writes at the same time, so writing needs a thread of its own.
        scope.spawn(move || -> io::Result<()> {
            // An error means that git has ended, and then its status says why.
            let mut input = io::BufWriter::new(input.ok_or(io::ErrorKind::BrokenPipe)?);
            ids.iter().try_for_each(|id| writeln!(input, "{id}"))?;
            input.flush()
        });
        let sent = send(&mut child, commits);
        if !matches!(sent, Ok(Sent::All(_))) {
            // Also ends the thread that writes.
            child.kill()?;
        }
        sent
    });
    let status = child.wait()?;
    match sent {
        Ok(Sent::NobodyReceives) => Ok(()),
        Ok(Sent::All(last)) => {
            repository::ended(status, complaint)?;
            if let Some(last) = last {
                // Nobody receiving is a good end here too.
                let _ = commits.blocking_send(last);
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

enum Sent {
    /// All but the last one: only git's good end says that nothing of it is missing.
    All(Option<Commit>),
    NobodyReceives,
}

fn send(child: &mut Child, commits: &mpsc::Sender<Commit>) -> Result<Sent, HistoryError> {
    let Some(output) = child.stdout.take() else {
        return Ok(Sent::All(None));
    };
    let mut last = None;
    for commit in Commits::new(BufReader::with_capacity(64 << 10, output)) {
        if let Some(complete) = last.replace(commit?)
            && commits.blocking_send(complete).is_err()
        {
            return Ok(Sent::NobodyReceives);
        }
    }
    Ok(Sent::All(last))
}

/// A channel for [`read`], as long as what may be read ahead.
pub(crate) fn channel() -> (mpsc::Sender<Commit>, mpsc::Receiver<Commit>) {
    mpsc::channel(COMMITS_AHEAD_MAX)
}

/// Reads the output of `git diff-tree -z --raw --numstat` in the format above: a chain of fields that end in NUL.
pub(crate) struct Commits<R> {
    input: R,
    /// A field that was read and belongs to what comes next.
    ahead: Option<Vec<u8>>,
}

impl<R: BufRead> Commits<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, ahead: None }
    }

    fn commit(&mut self) -> Result<Option<Commit>, HistoryError> {
        let Some(mark) = self.field()? else {
            return Ok(None);
        };
        if mark != MARK {
            return Err(malformed("", &mark));
        }
        let mut commit = Commit {
            id: self.text()?,
            parents: self.text()?.split_whitespace().map(str::to_owned).collect(),
            author_name: self.text()?,
            author_email: self.text()?,
            authored_at: self.text()?.parse().ok(),
            subject: self.text()?,
            changes: Vec::new(),
        };
        // Files come first, all of them, then the counts of their lines in the same order.
        let mut counted = 0;
        while let Some(field) = self.field()? {
            // Git puts an empty line between a commit and its files.
            let field = field.strip_prefix(b"\n").unwrap_or(&field).to_vec();
            match field.first() {
                Some(b':') => {
                    let change = self.change(&commit.id, &field)?;
                    commit.changes.push(change);
                }
                Some(b'0'..=b'9' | b'-') => {
                    let (path, lines) = self.count(&commit.id, &field)?;
                    // A file that git found nothing to count in is left out.
                    let file = commit.changes[counted..]
                        .iter()
                        .position(|file| file.path() == path);
                    let file = file.ok_or_else(|| malformed(&commit.id, &field))?;
                    counted += file;
                    commit.changes[counted].set_lines(lines);
                    counted += 1;
                }
                _ => {
                    self.ahead = Some(field);
                    break;
                }
            }
        }
        Ok(Some(commit))
    }

    /// `:100644 100644 <old blob> <new blob> R086`, then one path, or two.
    fn change(&mut self, commit: &str, field: &[u8]) -> Result<Change, HistoryError> {
        let status = field
            .rsplit(|byte| *byte == b' ')
            .next()
            .and_then(|status| status.first());
        let lines = Some(Lines::default());
        Ok(match status {
            Some(b'A') => Change::Added {
                path: self.text()?,
                lines,
            },
            Some(b'D') => Change::Deleted {
                path: self.text()?,
                lines,
            },
            Some(b'R') => Change::Renamed {
                from: self.text()?,
                path: self.text()?,
                lines,
            },
            // Also a file that became a link, or the other way round.
            Some(b'M' | b'T') => Change::Modified {
                path: self.text()?,
                lines,
            },
            _ => return Err(malformed(commit, field)),
        })
    }

    /// `3<tab>1<tab>path`, or `3<tab>1<tab>` and then two paths; `-` stands for the lines of a binary file.
    fn count(&mut self, commit: &str, field: &[u8]) -> Result<(String, Option<Lines>), HistoryError> {
        let mut parts = field.splitn(3, |byte| *byte == b'\t');
        let (Some(added), Some(removed), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(malformed(commit, field));
        };
        let number = |digits| str::from_utf8(digits).ok()?.parse().ok();
        let lines = match (number(added), number(removed)) {
            (Some(added), Some(removed)) => Some(Lines { added, removed }),
            _ if (added, removed) == (b"-", b"-") => None,
            _ => return Err(malformed(commit, field)),
        };
        if !path.is_empty() {
            return Ok((lossy(path), lines));
        }
        self.text()?;
        Ok((self.text()?, lines))
    }

    fn text(&mut self) -> Result<String, HistoryError> {
        let field = self.field()?.ok_or(HistoryError::Truncated)?;
        Ok(lossy(&field))
    }

    fn field(&mut self) -> Result<Option<Vec<u8>>, HistoryError> {
        if let Some(field) = self.ahead.take() {
            return Ok(Some(field));
        }
        let mut field = Vec::new();
        self.input.read_until(0, &mut field)?;
        match field.pop() {
            None => Ok(None),
            Some(0) => Ok(Some(field)),
            Some(_) => Err(HistoryError::Truncated),
        }
    }
}

impl<R: BufRead> Iterator for Commits<R> {
    type Item = Result<Commit, HistoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.commit().transpose()
    }
}

impl Change {
    /// Where the file is now, or was last.
    pub(crate) fn path(&self) -> &str {
        match self {
            Self::Added { path, .. }
            | Self::Modified { path, .. }
            | Self::Deleted { path, .. }
            | Self::Renamed { path, .. } => path,
        }
    }

    fn set_lines(&mut self, found: Option<Lines>) {
        match self {
            Self::Added { lines, .. }
            | Self::Modified { lines, .. }
            | Self::Deleted { lines, .. }
            | Self::Renamed { lines, .. } => *lines = found,
        }
    }
}

/// Git knows names as bytes, JSON knows text.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn malformed(commit: &str, found: &[u8]) -> HistoryError {
    let found = lossy(&found[..found.len().min(200)]);
    HistoryError::Malformed {
        commit: commit.to_owned(),
        found,
    }
}

impl fmt::Display for HistoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Git(error) => error.fmt(f),
            Self::Io(_) => write!(f, "could not read from git"),
            Self::Malformed { commit, found } => {
                write!(
                    f,
                    "cannot understand what git says about commit {commit:?}: {found:?}"
                )
            }
            Self::Truncated => write!(f, "git stopped in the middle of a commit"),
        }
    }
}

impl std::error::Error for HistoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Git(error) => error.source(),
            Self::Io(error) => Some(error),
            Self::Malformed { .. } | Self::Truncated => None,
        }
    }
}

impl From<GitError> for HistoryError {
    fn from(error: GitError) -> Self {
        Self::Git(error)
    }
}

impl From<io::Error> for HistoryError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Commit, Commits, HistoryError};
    use crate::facts::Lines;

    /// Git's output, written with `|` for NUL.
    fn parse(output: &str) -> Result<Vec<Commit>, HistoryError> {
        parse_bytes(output.as_bytes())
    }

    fn parse_bytes(output: &[u8]) -> Result<Vec<Commit>, HistoryError> {
        let with_nul = |byte: &u8| if *byte == b'|' { 0 } else { *byte };
        let output: Vec<u8> = output.iter().map(with_nul).collect();
        Commits::new(output.as_slice()).collect()
    }

    fn header(id: &str, parents: &str, subject: &str) -> String {
        format!("commit|{id}|{parents}|Ann|ann@example.org|1600000000|{subject}|")
    }

    fn lines(added: u64, removed: u64) -> Option<Lines> {
        Some(Lines { added, removed })
    }

    #[test]
    fn no_output_is_no_commits() {
        assert_eq!(parse("").expect("parses"), []);
    }

    #[test]
    fn every_kind_of_change_is_read() {
        let output = header("c1", "p1 p2", "a subject")
            + "\n:000000 100644 0 1 A|new|:100644 000000 1 0 D|old|:100644 100644 1 2 M|same|"
            + ":100644 100644 1 2 R086|from|to|:100644 120000 1 2 T|link|:100644 100644 1 2 M|binary|"
            + "7\t0\tnew|0\t3\told|1\t2\tsame|4\t5\t|from|to|1\t1\tlink|-\t-\tbinary|";
        let commits = parse(&output).expect("parses");
        assert_eq!(commits.len(), 1);
        assert_eq!(commits[0].parents, ["p1", "p2"]);
        assert_eq!(commits[0].authored_at, Some(1_600_000_000));
        let [from, path] = ["from".to_owned(), "to".to_owned()];
        let expected = [
            Change::Added {
                path: "new".to_owned(),
                lines: lines(7, 0),
            },
            Change::Deleted {
                path: "old".to_owned(),
                lines: lines(0, 3),
            },
            Change::Modified {
                path: "same".to_owned(),
                lines: lines(1, 2),
            },
            Change::Renamed {
                from,
                path,
                lines: lines(4, 5),
            },
            Change::Modified {
                path: "link".to_owned(),
                lines: lines(1, 1),
            },
            Change::Modified {
                path: "binary".to_owned(),
                lines: None,
            },
        ];
        assert_eq!(commits[0].changes, expected);
    }

    #[test]
    fn commits_without_files_follow_each_other() {
        let output = header("c1", "", "") + &header("c2", "c1", "commit") + &header("c3", "c2", ":x");
        let commits = parse(&output).expect("parses");
        let ids: Vec<_> = commits.iter().map(|commit| commit.id.as_str()).collect();
        assert_eq!(ids, ["c1", "c2", "c3"]);
        assert!(commits.iter().all(|commit| commit.changes.is_empty()));
        assert_eq!(commits[0].subject, "");
    }

    #[test]
    fn names_that_look_like_output_are_names() {
        let names = [
            "commit",
            ":100644 100644 1 2 M",
            "1\t2\tx",
            "new\nline",
            "quote\"\\",
            "-",
        ];
        let mut output = header("c1", "", "odd") + "\n";
        for name in names {
            output += &format!(":000000 100644 0 1 A|{name}|");
        }
        for name in names {
            output += &format!("1\t0\t{name}|");
        }
        output += &header("c2", "c1", "next");
        let commits = parse(&output).expect("parses");
        let found: Vec<_> = commits[0].changes.iter().map(Change::path).collect();
        assert_eq!(found, names);
        assert_eq!(commits[1].id, "c2");
    }

    #[test]
    fn broken_text_and_dates_are_read_as_far_as_they_go() {
        let output = b"commit|c1||F\xe9lix|||latin \xe9|\n:000000 100644 0 1 A|\xff|0\t0\t\xff|";
        let commits = parse_bytes(output).expect("parses");
        assert_eq!(commits[0].author_name, "F\u{fffd}lix");
        assert_eq!(commits[0].author_email, "");
        assert_eq!(commits[0].authored_at, None);
        assert_eq!(commits[0].changes[0].path(), "\u{fffd}");
    }

    #[test]
    fn file_without_a_count_has_no_changed_lines() {
        let output = header("c1", "", "mode") + "\n:100644 100755 1 1 M|a|:100644 100644 1 2 M|b|1\t1\tb|";
        let commits = parse(&output).expect("parses");
        let expected = [
            Change::Modified {
                path: "a".to_owned(),
                lines: lines(0, 0),
            },
            Change::Modified {
                path: "b".to_owned(),
                lines: lines(1, 1),
            },
        ];
        assert_eq!(commits[0].changes, expected);
    }

    #[test]
    fn output_that_stops_inside_a_commit_is_an_error() {
        let output = header("c1", "", "cut") + "\n:000000 100644 0 1 A|a|1\t0\ta|";
        let header_bytes = header("c1", "", "cut").len();
        for end in 1..output.len() {
            let cut = parse(&output[..end]);
            // What ends between two fields after the header looks whole; git's status tells.
            let between = end >= header_bytes && output.as_bytes()[end - 1] == b'|';
            let path_missing = output[..end].ends_with("A|");
            assert_eq!(cut.is_ok(), between && !path_missing, "cut after {end} bytes");
        }
    }

    #[test]
    fn other_output_is_refused() {
        assert!(matches!(parse("what|"), Err(HistoryError::Malformed { .. })));
        let output = header("c1", "", "x") + "\n:100644 100644 1 2 Z|a|";
        assert!(matches!(parse(&output), Err(HistoryError::Malformed { .. })));
        let output = header("c1", "", "x") + "\n:100644 100644 1 2 M|a|1\t1\tb|";
        assert!(matches!(parse(&output), Err(HistoryError::Malformed { .. })));
    }
}
