//! A TCP proxy between a client and a server that does to their connections what networks do: delays,
//! cuts, swallowed replies, refusals. It knows nothing of what it carries.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to what goes through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Each piece waits so long before it is passed on, in both directions.
    Delay(Duration),
    /// After so many bytes of replies, counted over all connections, the one that carries the last of
    /// them is cut in the middle; then the count begins anew.
    CutEvery(u64),
    /// The server gets the requests; its replies are thrown away.
    DropReplies,
    /// Nothing is passed on, and no connection is closed.
    Freeze,
    /// Open connections are cut, and new ones closed at once.
    Refuse,
}

#[derive(Debug)]
struct Shared {
    fault: watch::Sender<Fault>,
    /// Its value is how often all connections were cut.
    cuts: watch::Sender<u64>,
    accepted: AtomicU64,
    /// Bytes of replies since the last cut of [`Fault::CutEvery`].
    replied: AtomicU64,
}

/// A running proxy; it ends, with its connections, when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

impl Proxy {
    /// Listens on a free port of the loopback interface for a server, which need not run yet.
    pub async fn start(server: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            fault: watch::Sender::new(Fault::None),
            cuts: watch::Sender::new(0),
            accepted: AtomicU64::new(0),
            replied: AtomicU64::new(0),
        });
        let accepting = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    if *shared.fault.borrow() == Fault::Refuse {
                        continue;
                    }
                    shared.accepted.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(carry(client, server, Arc::clone(&shared)));
                }
            }
        });
        Ok(Self {
            address,
            shared,
            accepting,
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this happens, also to open connections.
    pub fn set(&self, fault: Fault) {
        self.shared.replied.store(0, Ordering::Relaxed);
        self.shared.fault.send_replace(fault);
        if fault == Fault::Refuse {
            self.cut();
        }
    }

    /// Cuts all open connections.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// How many connections it has accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

/// Carries one connection until either side, or a fault, ends it.
async fn carry(client: TcpStream, server: SocketAddr, shared: Arc<Shared>) {
    let mut cuts = shared.cuts.subscribe();
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    // Small requests must not wait for each other's acknowledgements.
    if client.set_nodelay(true).is_err() || server.set_nodelay(true).is_err() {
        return;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, &shared, Direction::Requests) => {}
        () = pump(from_server, to_client, &shared, Direction::Replies) => {}
        _ = cuts.changed() => {}
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Requests,
    Replies,
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    direction: Direction,
) {
    let mut fault = shared.fault.subscribe();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) => break,
            Ok(read) => read,
            Err(_) => return,
        };
        let Ok(now) = fault.wait_for(|f| *f != Fault::Freeze).await.map(|f| *f) else {
            return;
        };
        let (mut passed, mut ends) = (read, false);
        match (now, direction) {
            (Fault::Delay(delay), _) => tokio::time::sleep(delay).await,
            (Fault::DropReplies, Direction::Replies) => passed = 0,
            (Fault::Refuse, _) => return,
            (Fault::CutEvery(bytes), Direction::Replies) => {
                let before = shared.replied.fetch_add(read as u64, Ordering::Relaxed);
                if before + read as u64 >= bytes {
                    passed = usize::try_from(bytes.saturating_sub(before)).unwrap_or(0);
                    shared.replied.store(0, Ordering::Relaxed);
                    ends = true;
                }
            }
            _ => {}
        }
        if to.write_all(&buffer[..passed.min(read)]).await.is_err() || ends {
            return;
        }
    }
    if direction == Direction::Requests && to.shutdown().await.is_ok() {
        // The client has said all; the server may not have. Its replies' end ends the connection.
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;

    /// A server that says everything back.
    async fn echo() -> anyhow::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = client.split();
                    tokio::io::copy(&mut from, &mut to).await.ok();
                });
            }
        });
        Ok(address)
    }

    async fn says(proxy: &Proxy, text: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut client = TcpStream::connect(proxy.address()).await?;
        client.write_all(text).await?;
        client.shutdown().await?;
        let mut back = Vec::new();
        let read = client.read_to_end(&mut back);
        // A reset is as good as an end.
        tokio::time::timeout(Duration::from_secs(1), read)
            .await?
            .ok();
        Ok(back)
    }

    #[tokio::test]
    async fn each_fault_does_what_it_says() -> anyhow::Result<()> {
        let proxy = Proxy::start(echo().await?).await?;
        ensure!(says(&proxy, b"all of it").await? == b"all of it");
        proxy.set(Fault::Delay(Duration::from_millis(30)));
        let begun = std::time::Instant::now();
        ensure!(says(&proxy, b"late").await? == b"late");
        ensure!(begun.elapsed() >= Duration::from_millis(60));
        proxy.set(Fault::CutEvery(4));
        ensure!(says(&proxy, b"some of it").await? == b"some");
        proxy.set(Fault::DropReplies);
        ensure!(says(&proxy, b"none of it").await? == b"");
        proxy.set(Fault::Freeze);
        ensure!(says(&proxy, b"waits").await.is_err());
        proxy.set(Fault::Refuse);
        let accepted = proxy.accepted();
        ensure!(says(&proxy, b"nobody there").await.unwrap_or_default() == b"");
        ensure!(proxy.accepted() == accepted && accepted == 5);
        proxy.set(Fault::None);
        ensure!(says(&proxy, b"as before").await? == b"as before");
        Ok(())
    }

    #[tokio::test]
    async fn a_frozen_connection_goes_on_and_a_cut_one_does_not() -> anyhow::Result<()> {
        let proxy = Proxy::start(echo().await?).await?;
        let mut client = TcpStream::connect(proxy.address()).await?;
        let mut back = [0; 3];
        proxy.set(Fault::Freeze);
        client.write_all(b"one").await?;
        let frozen = client.read_exact(&mut back);
        ensure!(
            tokio::time::timeout(Duration::from_millis(100), frozen)
                .await
                .is_err()
        );
        proxy.set(Fault::None);
        client.read_exact(&mut back).await?;
        ensure!(&back == b"one");
        proxy.cut();
        ensure!(client.read(&mut back).await.unwrap_or(0) == 0);
        Ok(())
    }
}
