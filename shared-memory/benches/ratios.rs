//! Memory beside TCP and Unix sockets, in turns, in one run: ratios, since times depend on what else runs. In
//! brackets the processor time of both processes for each request or write, as a ratio too.
//! `cargo bench -p patchbay-shared-memory`, with `-- quick` only the smallest size · two processes, one tokio runtime of one thread each.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use patchbay_shared_memory::{DEFAULT_SPIN, MemoryStream, Offer, Rings};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

/// Each work is measured so often, all ways in turn.
const ROUNDS: usize = 7;
/// Time for one measurement.
const WITHIN: Duration = Duration::from_millis(150);
/// Sizes of requests and of writes, in bytes.
const SIZES: [usize; 4] = [64, 512, 16 << 10, 64 << 10];
const WAYS: [&str; 4] = ["tcp", "unix", "memory", "memory, asleep"];

/// Connections of each way that ask at once.
const MANY: usize = 64;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let quick = arguments.iter().any(|argument| argument == "quick");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &arguments[..] {
        [_, role, folder, address] if role == "serve" => {
            runtime.block_on(serve(Path::new(folder), address.parse().map_err(io::Error::other)?))
        }
        _ => runtime.block_on(measure(if quick { &SIZES[..1] } else { &SIZES })),
    }
}

/// The other process: for each way, an endless series of works. A work begins with its kind and its size.
async fn serve(folder: &Path, address: SocketAddr) -> io::Result<()> {
    for way in WAYS {
        for _ in 0..MANY {
            let mut stream = join(way, folder, address).await?;
            tokio::spawn(async move { while answer(&mut stream).await.is_ok() {} });
        }
    }
    let mut streams = Vec::new();
    for way in WAYS {
        streams.push(join(way, folder, address).await?);
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

async fn join(way: &str, folder: &Path, address: SocketAddr) -> io::Result<Box<dyn Stream>> {
    Ok(match way {
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
    })
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

async fn measure(sizes: &[usize]) -> io::Result<()> {
    let folder = tempfile::tempdir()?.keep();
    let tcp = TcpListener::bind("127.0.0.1:0").await?;
    let (unix, offers) =
        (UnixListener::bind(folder.join("unix"))?, StdListener::bind(folder.join("offers"))?);
    let address = tcp.local_addr()?.to_string();
    let child = Command::new(std::env::current_exe()?).arg("serve").arg(&folder).arg(address).spawn()?;
    let peer = Peer(child, folder);
    let listeners = (tcp, unix, offers);
    let mut many = Vec::new();
    for way in WAYS {
        let mut streams = Vec::new();
        for _ in 0..MANY {
            streams.push(accept(way, &listeners).await?);
        }
        many.push(streams);
    }
    let mut streams = Vec::new();
    for way in WAYS {
        streams.push(accept(way, &listeners).await?);
    }
    println!(
        "median of {ROUNDS} ratios to TCP in the same round; requests: time, streams: speed [processor time]"
    );
    for echoes in [true, false] {
        for &size in sizes {
            let mut results = vec![Vec::new(); WAYS.len()];
            for _ in 0..ROUNDS {
                for (stream, results) in streams.iter_mut().zip(&mut results) {
                    let before = used(&peer)?;
                    let rate = ask(stream, echoes, size).await?;
                    results.push((rate, (used(&peer)? - before) / rate));
                }
            }
            print(&format!("{} {size:>6} B", if echoes { "request" } else { "stream " }), echoes, &results);
        }
    }
    let mut results = vec![Vec::new(); WAYS.len()];
    for _ in 0..ROUNDS {
        for (streams, results) in many.iter_mut().zip(&mut results) {
            let before = used(&peer)?;
            let mut tasks = JoinSet::new();
            for mut stream in streams.drain(..) {
                tasks.spawn(async move { ask(&mut stream, true, SIZES[0]).await.map(|rate| (rate, stream)) });
            }
            let mut rate = 0.0;
            while let Some(done) = tasks.join_next().await {
                let (one, stream) = done.map_err(io::Error::other)??;
                rate += one;
                streams.push(stream);
            }
            results.push((rate, (used(&peer)? - before) / rate));
        }
    }
    print(&format!("{MANY} at once {} B", SIZES[0]), true, &results);
    Ok(())
}

async fn accept(
    way: &str,
    (tcp, unix, offers): &(TcpListener, UnixListener, StdListener),
) -> io::Result<Box<dyn Stream>> {
    if way == "unix" {
        return Ok(Box::new(unix.accept().await?.0));
    }
    let stream = tcp.accept().await?.0;
    stream.set_nodelay(true)?;
    if way == "tcp" {
        return Ok(Box::new(stream));
    }
    let [theirs, ours] = Offer::pair(1, Rings::default())?;
    theirs.send(&offers.accept()?.0)?;
    Ok(Box::new(memory(stream, ours, way)?))
}

/// Processor time of both processes so far, nanoseconds. Each has one thread.
fn used(peer: &Peer) -> io::Result<f64> {
    let of = |process: &str| -> io::Result<f64> {
        let text = std::fs::read_to_string(format!("/proc/{process}/schedstat"))?;
        text.split(' ')
            .next()
            .and_then(|time| time.parse().ok())
            .ok_or_else(|| io::Error::other(text.clone()))
    };
    Ok(of("self")? + of(&peer.0.id().to_string())?)
}

/// One line: rates and processor time by way and round.
fn print(what: &str, echoes: bool, results: &[Vec<(f64, f64)>]) {
    let rates: Vec<f64> = results[0].iter().map(|(rate, _)| *rate).collect();
    print!("{what:<17} tcp {:>9.0}/s", median(&rates));
    for (way, result) in WAYS.iter().zip(results).skip(1) {
        let both = || results[0].iter().zip(result);
        let rates: Vec<f64> =
            both().map(|((tcp, _), (it, _))| if echoes { tcp / it } else { it / tcp }).collect();
        let used: Vec<f64> = both().map(|((_, tcp), (_, it))| it / tcp).collect();
        print!("   {way} {:.2} [{:.2}]", median(&rates), median(&used));
    }
    println!();
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
