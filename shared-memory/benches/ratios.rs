//! Memory beside TCP and Unix sockets, in turns, in one run: ratios, since times depend on what else runs.
//! `cargo bench -p patchbay-shared-memory` · two processes, one tokio runtime of one thread each.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use patchbay_shared_memory::{DEFAULT_SPIN, MemoryStream, Offer, Rings};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Each work is measured so often, all ways in turn.
const ROUNDS: usize = 7;
/// Time for one measurement.
const WITHIN: Duration = Duration::from_millis(150);
/// Sizes of requests and of writes, in bytes.
const SIZES: [usize; 4] = [64, 512, 16 << 10, 64 << 10];
const WAYS: [&str; 4] = ["tcp", "unix", "memory", "memory, asleep"];

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &arguments[..] {
        [_, role, folder, address] if role == "serve" => {
            runtime.block_on(serve(Path::new(folder), address.parse().map_err(io::Error::other)?))
        }
        _ => runtime.block_on(measure()),
    }
}

/// The other process: for each way, an endless series of works. A work begins with its kind and its size.
async fn serve(folder: &Path, address: SocketAddr) -> io::Result<()> {
    let mut streams: Vec<Box<dyn Stream>> = Vec::new();
    for way in WAYS {
        streams.push(match way {
            "tcp" => Box::new(connect(address).await?),
            "unix" => Box::new(UnixStream::connect(folder.join("unix")).await?),
            _ => {
                let tcp = connect(address).await?;
                let offers = StdStream::connect(folder.join("offers"))?;
                offers.set_nonblocking(true)?;
                let offers = UnixStream::from_std(offers)?;
                offers.readable().await?;
                Box::new(memory(tcp, Offer::receive(&offers)?, way)?)
            }
        });
    }
    loop {
        // In the order in which they are measured.
        for _ in 0..ROUNDS {
            for stream in &mut streams {
                if answer(stream).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn memory(tcp: TcpStream, offer: Offer, way: &str) -> io::Result<MemoryStream> {
    let spin = if way == "memory" { DEFAULT_SPIN } else { Duration::ZERO };
    MemoryStream::new(tcp, (0, 0), offer, spin).map_err(|(_, error)| error.into())
}

async fn answer(stream: &mut impl Stream) -> io::Result<()> {
    let (echoes, size) = (stream.read_u8().await? == 1, stream.read_u32().await? as usize);
    let mut buffer = vec![0; size];
    loop {
        stream.read_exact(&mut buffer).await?;
        let last = buffer[0] == 1;
        if echoes || last {
            stream.write_all(&buffer).await?;
        }
        if last {
            return Ok(());
        }
    }
}

/// Requests, or bytes of a stream, in a second.
async fn ask(stream: &mut impl Stream, echoes: bool, size: usize) -> io::Result<f64> {
    stream.write_u8(u8::from(echoes)).await?;
    stream.write_u32(size as u32).await?;
    let mut buffer = vec![0; size];
    let mut times = 0_u64;
    let begun = Instant::now();
    loop {
        let last = begun.elapsed() > WITHIN;
        buffer.fill(u8::from(last));
        stream.write_all(&buffer).await?;
        if echoes || last {
            stream.read_exact(&mut buffer).await?;
        }
        times += 1;
        if last {
            return Ok(times as f64 / begun.elapsed().as_secs_f64());
        }
    }
}

struct Peer(Child, PathBuf);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

async fn measure() -> io::Result<()> {
    let folder = tempfile::tempdir()?.keep();
    let tcp = TcpListener::bind("127.0.0.1:0").await?;
    let (unix, offers) =
        (UnixListener::bind(folder.join("unix"))?, StdListener::bind(folder.join("offers"))?);
    let address = tcp.local_addr()?.to_string();
    let child = Command::new(std::env::current_exe()?).arg("serve").arg(&folder).arg(address).spawn()?;
    let _peer = Peer(child, folder);
    let mut streams: Vec<Box<dyn Stream>> = Vec::new();
    for way in WAYS {
        if way == "unix" {
            streams.push(Box::new(unix.accept().await?.0));
            continue;
        }
        let stream = tcp.accept().await?.0;
        stream.set_nodelay(true)?;
        if way == "tcp" {
            streams.push(Box::new(stream));
            continue;
        }
        let [theirs, ours] = Offer::pair(1, Rings::default())?;
        theirs.send(&offers.accept()?.0)?;
        streams.push(Box::new(memory(stream, ours, way)?));
    }
    println!("median of {ROUNDS} ratios to TCP in the same round; requests: time, streams: speed");
    for echoes in [true, false] {
        for size in SIZES {
            let mut rates = vec![Vec::new(); WAYS.len()];
            for _ in 0..ROUNDS {
                for (stream, rates) in streams.iter_mut().zip(&mut rates) {
                    rates.push(ask(stream, echoes, size).await?);
                }
            }
            let kind = if echoes { "request" } else { "stream " };
            print!("{kind} {size:>6} B   tcp {:>9.0}/s", median(&rates[0]));
            for (way, rate) in WAYS.iter().zip(&rates).skip(1) {
                let ratio = |(tcp, it): (&f64, &f64)| if echoes { tcp / it } else { it / tcp };
                let ratios: Vec<f64> = rates[0].iter().zip(rate).map(ratio).collect();
                print!("   {way} {:.2}", median(&ratios));
            }
            println!();
        }
    }
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
