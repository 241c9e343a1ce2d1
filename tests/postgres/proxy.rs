//! Stands between a store and its server, and can be told to fail.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the proxy does with what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Passes,
    /// Nothing goes through, and nothing is closed.
    Holds,
    /// All connections are cut, and none is let in.
    IsClosed,
    /// The next commit gets to the server, and its answer is lost with the connection. Then it passes again, or is closed.
    LosesAnswer {
        and_closes: bool,
    },
    /// The next commit does not get to the server: its connection is cut before. Then it passes again.
    LosesCommit,
}

pub(crate) struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
}

impl Proxy {
    /// Begins to pass on what is said to a server on this port. Ends with the test's runtime.
    pub(crate) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("binds");
        let port = listener.local_addr().expect("has an address").port();
        let mode = watch::Sender::new(Mode::Passes);
        let modes = mode.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *modes.borrow() != Mode::IsClosed {
                    tokio::spawn(pass(client, server, modes.clone()));
                }
            }
        });
        Self { port, mode }
    }

    pub(crate) fn address(&self) -> String {
        format!("postgres://millstream:secret@127.0.0.1:{}/postgres", self.port)
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Waits until it has done what it was told once, and is in this mode by itself.
    pub(crate) async fn is(&self, mode: Mode) {
        let mut modes = self.mode.subscribe();
        modes
            .wait_for(|found| *found == mode)
            .await
            .expect("the proxy is there");
    }
}

/// How a store ends a transaction.
const COMMIT: &[u8] = b"COMMIT\0";

async fn pass(mut client: TcpStream, server: u16, mode: watch::Sender<Mode>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await else {
        return;
    };
    let mut modes = mode.subscribe();
    let (mut from_client, mut from_server) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let now = *modes.borrow_and_update();
        if now == Mode::IsClosed {
            return;
        }
        let is_held = now == Mode::Holds;
        tokio::select! {
            _ = modes.changed() => {}
            read = client.read(&mut from_client), if !is_held => {
                let Ok(count @ 1..) = read else { return };
                let said = &from_client[..count];
                let has_commit = said.windows(COMMIT.len()).any(|window| window == COMMIT);
                match now {
                    Mode::LosesCommit if has_commit => {
                        drop((client, server));
                        mode.send_replace(Mode::Passes);
                        return;
                    }
                    Mode::LosesAnswer { and_closes } if has_commit => {
                        drop(client);
                        let next = if and_closes { Mode::IsClosed } else { Mode::Passes };
                        mode.send_replace(next);
                        // The server does what it was told before it finds the end of it.
                        let _ = server.write_all(said).await;
                        let _ = server.shutdown().await;
                        while let Ok(1..) = server.read(&mut from_server).await {}
                        return;
                    }
                    _ => if server.write_all(said).await.is_err() { return },
                }
            }
            read = server.read(&mut from_server), if !is_held => {
                let Ok(count @ 1..) = read else { return };
                if client.write_all(&from_server[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}
