//! A git repository, asked through the `git` command: where it is, what its head is, which commits lead there.
//!
//! Only commands are used whose output does not depend on the user's configuration.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::hash::Hash;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

/// The most bytes of git's complaints that are kept.
const COMPLAINT_BYTES_MAX: u64 = 64 << 10;

/// A repository that was there when it was looked for.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    /// The work tree, or the git directory of a bare repository.
    root: PathBuf,
}

/// The name of a commit in a quarter of the memory that its text takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CommitId {
    Sha1([u8; 20]),
    Sha256([u8; 32]),
}

#[derive(Debug)]
pub(crate) enum GitError {
    /// There is no `git` to run.
    NotInstalled,
    /// Git ran and refused.
    Refused {
        status: ExitStatus,
        complaint: String,
    },
    /// Git said something that this program does not understand.
    Unexpected(String),
    Io(io::Error),
}

impl Repository {
    /// The repository that `path` is in; without a path, the one that the current directory is in.
    pub(crate) fn find(path: Option<&Path>) -> Result<Self, GitError> {
        let path = path.unwrap_or(Path::new("."));
        let git_dir = text_path(run(git(path).args(["rev-parse", "--absolute-git-dir"]))?);
        let root = match run(git(path).args(["rev-parse", "--show-toplevel"])) {
            Ok(toplevel) => text_path(toplevel),
            // A bare repository has no work tree; neither has the inside of a git directory.
            Err(GitError::Refused { .. }) => match git_dir.parent() {
                Some(parent) if git_dir.ends_with(".git") => parent.to_owned(),
                _ => git_dir,
            },
            Err(error) => return Err(error),
        };
        Ok(Self {
            root: root.canonicalize()?,
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What people call it: the last part of its path.
    pub(crate) fn name(&self) -> String {
        let name = self.root.file_name().map(OsStr::to_string_lossy);
        let name = name.unwrap_or_default();
        name.strip_suffix(".git").unwrap_or(&name).to_owned()
    }

    /// The commit that is checked out; none in a repository without commits.
    pub(crate) fn head(&self) -> Result<Option<CommitId>, GitError> {
        let head = run(self
            .git()
            .args(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]));
        match head {
            Ok(id) => parse_id(&String::from_utf8_lossy(&id)).map(Some),
            Err(GitError::Refused { status, .. }) if status.code() == Some(1) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the repository has this commit, reachable or not.
    pub(crate) fn has(&self, commit: CommitId) -> Result<bool, GitError> {
        match run(self
            .git()
            .args(["cat-file", "-e", &format!("{commit}^{{commit}}")]))
        {
            Ok(_) => Ok(true),
            Err(GitError::Refused { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The commits that lead to `head` and are not `known`, every one after its parents.
    pub(crate) fn commits(
        &self,
        head: CommitId,
        known: &HashSet<CommitId>,
    ) -> Result<Vec<CommitId>, GitError> {
        let mut child = self
            .git()
            .args(["rev-list", "--reverse", "--topo-order", &head.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let complaint = complaint(&mut child);
        let mut commits = Vec::new();
        if let Some(output) = child.stdout.take() {
            for line in BufReader::new(output).lines() {
                let id = parse_id(&line?)?;
                if !known.contains(&id) {
                    commits.push(id);
                }
            }
        }
        ended(child.wait()?, complaint)?;
        Ok(commits)
    }

    /// Git, in this repository.
    pub(crate) fn git(&self) -> Command {
        git(&self.root)
    }
}

fn git(directory: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(directory).env("LC_ALL", "C");
    // Git sets these for the hooks and aliases it runs; here they would lead to another repository.
    for variable in [
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_COMMON_DIR",
        "GIT_INDEX_FILE",
        "GIT_PREFIX",
    ] {
        command.env_remove(variable);
    }
    // Ctrl-C is meant for this program, which then stops git itself and in order.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command
}

fn run(command: &mut Command) -> Result<Vec<u8>, GitError> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(GitError::Refused {
        status: output.status,
        complaint,
    })
}

/// Reads what a running git complains about, so that a long complaint never makes it wait.
pub(crate) fn complaint(child: &mut Child) -> thread::JoinHandle<String> {
    let stderr = child.stderr.take();
    thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut stderr) = stderr {
            // What cannot be read of a complaint is no reason to complain.
            let _ = stderr.by_ref().take(COMPLAINT_BYTES_MAX).read_to_end(&mut text);
            let _ = io::copy(&mut stderr, &mut io::sink());
        }
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// Turns the end of a running git into an error, unless it was a good one.
pub(crate) fn ended(status: ExitStatus, complaint: thread::JoinHandle<String>) -> Result<(), GitError> {
    let complaint = complaint.join().unwrap_or_default();
    if status.success() {
        Ok(())
    } else {
        Err(GitError::Refused { status, complaint })
    }
}

/// The path that git printed on a line of its own.
fn text_path(mut line: Vec<u8>) -> PathBuf {
    line.pop_if(|last| *last == b'\n');
    #[cfg(unix)]
    let path = PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(
        line,
    ));
    #[cfg(not(unix))]
    let path = PathBuf::from(String::from_utf8_lossy(&line).into_owned());
    path
}

fn parse_id(text: &str) -> Result<CommitId, GitError> {
    let text = text.trim();
    CommitId::parse(text).ok_or_else(|| GitError::Unexpected(text.to_owned()))
}

impl CommitId {
    pub(crate) fn parse(hex: &str) -> Option<Self> {
        match hex.len() {
            40 => from_hex(hex).map(Self::Sha1),
            64 => from_hex(hex).map(Self::Sha256),
            _ => None,
        }
    }
}

fn from_hex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let pair = str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: &[u8] = match self {
            Self::Sha1(bytes) => bytes,
            Self::Sha256(bytes) => bytes,
        };
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for GitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInstalled => write!(f, "there is no `git` command on the PATH"),
            Self::Refused { status, complaint } => {
                let first = complaint.lines().find(|line| !line.trim().is_empty());
                match first {
                    Some(line) => {
                        let line = line.trim_start_matches("fatal: ").trim_start_matches("error: ");
                        write!(f, "git says: {line}")
                    }
                    None => write!(f, "git ended with {status}"),
                }
            }
            Self::Unexpected(found) => {
                write!(f, "git answered with something unexpected: {found:?}")
            }
            Self::Io(_) => write!(f, "could not run git"),
        }
    }
}

impl std::error::Error for GitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for GitError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotInstalled,
            _ => Self::Io(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CommitId;

    #[test]
    fn commit_id_is_read_and_written_unchanged() {
        for hex in [
            "0123456789abcdef0123456789abcdef01234567".to_owned(),
            "a7".repeat(32),
        ] {
            let id = CommitId::parse(&hex).map(|id| id.to_string());
            assert_eq!(id, Some(hex));
        }
        assert_eq!(CommitId::parse("0123"), None);
        assert_eq!(CommitId::parse(&"\u{e9}".repeat(20)), None);
    }
}
