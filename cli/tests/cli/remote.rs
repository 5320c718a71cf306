//! `llq inspect` of files on a web server, which is a thread of the test.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use crate::harness::{Outcome, Place, tiny_gguf};

/// How a server answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Faithful,
    /// Sends whole files, as servers do that know nothing of ranges.
    WholeFiles,
    /// Sends ten bytes less than it says.
    StopsEarly,
    /// Sends another part than was asked for.
    OtherPart,
    /// Says that files are of `u64::MAX` bytes.
    Endless,
}

struct Server {
    address: String,
    sent: Arc<AtomicUsize>,
}

impl Server {
    fn of(files: impl IntoIterator<Item = (&'static str, Vec<u8>)>, manner: Manner) -> Server {
        let files: HashMap<&str, Vec<u8>> = files.into_iter().collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = sent.clone();
        // Ends with the tests.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = answer(stream.unwrap(), &files, manner, &counted);
            }
        });
        Server { address, sent }
    }
}

/// Answers the requests of one connection.
fn answer(
    mut stream: TcpStream,
    files: &HashMap<&str, Vec<u8>>,
    manner: Manner,
    sent: &AtomicUsize,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while let Some(request) = lines.next().transpose()? {
        let headers: Vec<String> =
            lines.by_ref().map_while(|line| line.ok().filter(|line| !line.is_empty())).collect();
        let name = request.split(' ').nth(1).unwrap().trim_start_matches('/');
        let Some(file) = files.get(name) else {
            write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        let (start, end) = asked_range(&headers).unwrap();
        let end = end.min(file.len());
        if start >= end {
            write!(stream, "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        }
        let part = &file[start..end];
        let (shown, whole) = match manner {
            Manner::OtherPart => (start + 1, file.len() as u64),
            Manner::Endless => (start, u64::MAX),
            _ => (start, file.len() as u64),
        };
        let length = part.len();
        match manner {
            Manner::WholeFiles => write!(stream, "HTTP/1.1 200 OK\r\n")?,
            _ => write!(
                stream,
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {shown}-{}/{whole}\r\n",
                shown + length - 1
            )?,
        }
        write!(stream, "Content-Length: {length}\r\n\r\n")?;
        let kept = if manner == Manner::StopsEarly { length - 10 } else { length };
        stream.write_all(&part[..kept])?;
        sent.fetch_add(kept, Relaxed);
        if manner == Manner::StopsEarly {
            break;
        }
    }
    Ok(())
}

fn asked_range(headers: &[String]) -> Option<(usize, usize)> {
    let range = headers.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("range").then_some(value)
    })?;
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse::<usize>().ok()? + 1))
}

/// Runs llq with its temporary files in the place, past any proxy.
fn llq(place: &Place, line: &str) -> Outcome {
    let folder = place.path("tmp");
    std::fs::create_dir_all(&folder).unwrap();
    let mut command = place.command();
    let outcome = Outcome::of(
        command.env("TMPDIR", &folder).env("NO_PROXY", "127.0.0.1").args(line.split(' ')),
    );
    assert!(folder.read_dir().unwrap().next().is_none(), "left in the temporary folder");
    outcome
}

#[test]
fn a_remote_file_is_shown_as_a_local_one_and_not_fetched_whole() {
    let place = Place::new();
    let file = std::fs::read(tiny_gguf()).unwrap();
    place.write("tiny.gguf", &file);
    let server = Server::of([("tiny.gguf", file.clone())], Manner::Faithful);
    let url = format!("{}/tiny.gguf", server.address);
    for options in
        ["--tensors --metadata", "--memory --ctx 512", "--json", "--tensor output.weight"]
    {
        let local = llq(&place, &format!("inspect tiny.gguf {options}")).ok().stdout;
        let remote = llq(&place, &format!("inspect {url} {options} -q")).ok().stdout;
        assert_eq!(remote.replace(&url, "tiny.gguf"), local, "{options}");
    }
    // output.weight takes 2 MiB of the 13 MiB, and the header is fetched four times.
    let sent = server.sent.load(Relaxed);
    assert!(sent < file.len() / 3, "{sent} bytes were sent");
}

#[test]
fn parts_of_a_split_model_are_found() {
    let place = Place::new();
    let file = tiny_gguf().to_str().unwrap();
    place.run(&format!("split {file} -o m.gguf --max-size 5M -q")).ok();
    let names = ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"];
    let parts = names.map(|name| (name, std::fs::read(place.path(name)).unwrap()));
    let local = place.run(&format!("inspect {} --tensors", names[0])).ok().stdout;
    let server = Server::of(parts.clone(), Manner::Faithful);
    for name in [names[0], names[1]] {
        let url = format!("{}/{name}", server.address);
        let remote = llq(&place, &format!("inspect {url} --tensors")).ok().stdout;
        assert_eq!(remote.replace(&url, names[0]), local);
    }
    let last = "blk.5.ffn_down.weight";
    let local = place.run(&format!("inspect {} --tensor {last}", names[0])).ok().stdout;
    let line = format!("inspect {}/{} --tensor {last} -q", server.address, names[0]);
    assert_eq!(llq(&place, &line).ok().stdout, local);

    let two = Server::of(parts.into_iter().take(2), Manner::Faithful);
    let refused = llq(&place, &format!("inspect {}/{}", two.address, names[0])).refused(&[]);
    let expected = format!("error: {}/{}: the server says 404 Not Found\n", two.address, names[2]);
    assert_eq!(refused.stderr, expected);
}

#[test]
fn what_servers_get_wrong_is_said() {
    let place = Place::new();
    let good = std::fs::read(tiny_gguf()).unwrap();
    let mut cut = good.clone();
    cut.truncate(good.len() - 5);
    let mut bad = good.clone();
    bad[4] = 9;
    let cases: [(Vec<u8>, Manner, &str); 7] = [
        (good.clone(), Manner::WholeFiles, "sends whole files only"),
        (good.clone(), Manner::StopsEarly, "Peer disconnected"),
        (good.clone(), Manner::OtherPart, "does not say which part of the file it sends"),
        (good, Manner::Endless, "m.gguf: "),
        (cut, Manner::Faithful, "are left"),
        (bad, Manner::Faithful, "m.gguf: gguf version"),
        (Vec::new(), Manner::Faithful, "the file is empty"),
    ];
    for (file, manner, expected) in cases {
        let server = Server::of([("m.gguf", file)], manner);
        let outcome = llq(&place, &format!("inspect {}/m.gguf", server.address));
        outcome.refused(&[expected, &server.address]);
    }
}

#[test]
fn no_server_and_no_tensor() {
    let place = Place::new();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{gone}/m.gguf");
    llq(&place, &format!("inspect {url}")).refused(&[&format!("cannot fetch {url}")]);

    let server = Server::of([("m.gguf", std::fs::read(tiny_gguf()).unwrap())], Manner::Faithful);
    let url = format!("{}/m.gguf", server.address);
    let outcome = llq(&place, &format!("inspect {url} --tensor nothing"));
    outcome.refused(&[&format!("{url} has no tensor nothing")]);
}
