//! How the service ends: asked by Ctrl-C or SIGTERM, and not held up by those who do not listen.

use std::future::{self, Future};
use std::io;
use std::time::Duration;

use tokio::sync::watch;
use tokio::{signal, time};

/// How long requests under way have to come to their end.
const GRACE: Duration = Duration::from_secs(5);

/// That the process was asked to end, once it was.
#[derive(Clone)]
pub(crate) struct Closing(watch::Receiver<bool>);

impl Closing {
    /// Hears of it from the operating system. To be called inside the runtime, once.
    pub(crate) fn on_signal() -> io::Result<Self> {
        let (request, requested) = watch::channel(false);
        let asked = asked()?;
        tokio::spawn(async move {
            asked.await;
            request.send_replace(true);
        });
        Ok(Self(requested))
    }

    /// Returns when the process was asked to end.
    pub(crate) async fn requested(mut self) {
        if self.0.wait_for(|requested| *requested).await.is_err() {
            future::pending().await
        }
    }

    /// Returns some time after that: a browser that stopped reading must not keep the process.
    pub(crate) async fn overdue(self) {
        self.requested().await;
        time::sleep(GRACE).await;
    }
}

#[cfg(unix)]
fn asked() -> io::Result<impl Future<Output = ()>> {
    use signal::unix::{SignalKind, signal};
    // From here on the signals end the process no more by themselves.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
        }
    })
}

#[cfg(not(unix))]
fn asked() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        if signal::ctrl_c().await.is_err() {
            // Then Ctrl-C ends the process at once, which the log survives as well.
            future::pending().await
        }
    })
}
